"""Checks that every executor which a spec names is installed here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

from agentflow.spec.findings import Finding, did_you_mean
from agentflow.spec.models import WorkflowSpec
from agentflow.spec.paths import Path

GROUP = "agentflow.executors"  #: Entry points; the packages behind them are not imported.
ALWAYS = "local"  #: Known even where the package's metadata is missing.
OURS = ("subprocess", "kubernetes")  #: Names that are AgentFlow's own, whether this version has them or not.


def executor_findings(spec: WorkflowSpec) -> Iterator[Finding]:
    """Names of executors that nothing here offers: a node of theirs would wait for ever."""
    known = installed()
    for path, name in _named(spec):
        if name in known:
            continue
        if name in OURS:
            yield Finding(path, f"executor `{name}` is not supported in this version")
        else:
            yield Finding(path, f"there is no executor `{name}`", did_you_mean(name, known, what="installed"))


@cache
def installed() -> tuple[str, ...]:
    """Names of the installed executors, sorted."""
    return tuple(sorted({ALWAYS, *(point.name for point in entry_points(group=GROUP))}))


def _named(spec: WorkflowSpec) -> Iterator[tuple[Path, str]]:
    if spec.executor is not None:
        yield ("executor",), spec.executor
    if spec.defaults.executor is not None:
        yield ("defaults", "executor"), spec.defaults.executor
    for node_id, node in spec.nodes.items():
        if node.executor is not None:
            yield ("nodes", node_id, "executor"), node.executor

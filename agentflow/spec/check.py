"""Checks that need the whole document: graph, templates, configs, triggers, params."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentflow.errors import NodeTypeUnknown, NodeTypeUnusable, SpecError
from agentflow.graph import check_size, find_cycle
from agentflow.spec.check_executors import executor_findings
from agentflow.spec.check_flow import flow_findings
from agentflow.spec.check_templates import template_findings
from agentflow.spec.check_triggers import trigger_findings
from agentflow.spec.findings import Finding, did_you_mean, path_of
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.models import NodeSpec, WorkflowSpec
from agentflow.spec.param_schema import schema_findings
from agentflow.spec.paths import Path
from agentflow.spec.unsupported import unsupported

_CYCLE_SHOWN = 12  # nodes of a cycle that a message names


@dataclass(frozen=True, slots=True)
class Broken:
    """Parts that could not be read: they were cut out, so nothing that depends on them is reported."""

    nodes: frozenset[str] = frozenset()
    params: bool = False
    triggers: frozenset[int] = frozenset()


def check(spec: WorkflowSpec, broken: Broken = Broken()) -> Iterator[Finding]:
    """Everything that is wrong with a spec of the right shape."""
    try:
        check_size(spec.nodes)
    except SpecError as error:
        yield from (Finding((problem.path,), problem.message, problem.hint, of_key=True) for problem in error.problems)
        return
    yield from unsupported(spec)
    yield from executor_findings(spec)
    for name, schema in spec.params.items():
        yield from schema_findings(schema, ("params", name))
    yield from flow_findings(spec)
    graph = list(_graph_findings(spec, broken))
    yield from graph
    yield from trigger_findings(spec, skip=broken.triggers, params_known=not broken.params)
    found = 0
    for node_id, node in spec.nodes.items():
        if node_id in broken.nodes:
            continue
        for finding in node_findings(node_id, node):
            found += 1
            yield finding
        if found > MAX_PROBLEMS * 20:  # a generated file with the same mistake everywhere
            return
    yield from template_findings(spec, skip=broken.nodes, params_known=not broken.params, graph_known=not graph)


def _graph_findings(spec: WorkflowSpec, broken: Broken) -> Iterator[Finding]:
    unknown = 0
    needs: dict[str, list[str]] = {}
    for node_id, node in spec.nodes.items():
        needs[node_id] = [upstream for upstream in node.needs if upstream in spec.nodes]
        for index, upstream in enumerate(node.needs):
            path: Path = ("nodes", node_id, "needs", index)
            if upstream == node_id:
                needs[node_id].remove(upstream)
                yield Finding(path, f"cycle: {node_id} needs itself", "remove it")
            elif upstream not in spec.nodes and upstream not in broken.nodes:
                unknown += 1
                hint = did_you_mean(upstream, spec.nodes, what="nodes") if unknown <= MAX_PROBLEMS else None
                yield Finding(path, f"there is no node `{upstream}`", hint)
    cycle = find_cycle(needs)
    if cycle is not None:
        first = cycle[0]
        place: Path = ("nodes", first, "needs", spec.nodes[first].needs.index(cycle[-1]))
        yield Finding(place, f"cycle: {_cycle_text(cycle)}", "remove one of these `needs`")


def _cycle_text(cycle: list[str]) -> str:
    if len(cycle) <= _CYCLE_SHOWN:
        return " -> ".join([*cycle, cycle[0]])
    shown = " -> ".join(cycle[:_CYCLE_SHOWN])
    return f"{shown} -> … -> {cycle[0]} ({len(cycle):,} nodes)"


def node_findings(node_id: str, node: NodeSpec) -> Iterator[Finding]:
    """What is wrong with a node's type and config."""
    from agentflow.nodes import registry

    path: Path = ("nodes", node_id)
    try:
        problems = registry.config_problems(node.type, node.config)
    except (NodeTypeUnknown, NodeTypeUnusable) as error:
        yield Finding((*path, "type"), error.message, error.hint)
        return
    for problem in problems:
        inside = path_of(problem.path)
        yield Finding((*path, "config", *inside), problem.message, problem.hint, problem.message.startswith("unknown"))

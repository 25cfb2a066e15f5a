"""The keys of a node and of a workflow (SEMANTICS 5), as Python keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from agentflow.durations import format_duration

#: A duration as text (`30s`, `PT5M`) or as a timedelta.
Duration = str | timedelta


class NodeKeys(TypedDict, total=False):
    """Every node key but `type` and `config`, which the call itself gives."""

    title: str
    notes: str
    group: str
    needs: Sequence[Any]  #: Node ids or results, beside those that the arguments bring.
    trigger_rule: str
    when: Any
    for_each: Any
    max_parallel: int
    retries: int
    retry_delay: Duration
    retry_backoff: float
    retry_max_delay: Duration
    retry_jitter: float
    retry_on: Sequence[str | int]
    fail_on: Sequence[str | int]
    timeout: Duration
    executor: str
    queue: str
    pool: str
    pool_slots: int
    priority: int
    resources: Mapping[str, Any]
    repeat: Mapping[str, Any]
    outputs: Mapping[str, Any]
    position: Mapping[str, float]


class WorkflowKeys(TypedDict, total=False):
    """Every workflow key but `nodes`, which the body gives."""

    name: str
    title: str
    description: str
    tags: Sequence[str]
    params: Mapping[str, Any]
    triggers: Sequence[Mapping[str, Any]]
    max_active_runs: int
    concurrency: int
    timeout: Duration
    defaults: Mapping[str, Any]
    outputs: Mapping[str, Any]
    executor: str
    queue: str
    depends_on_past: bool
    max_consecutive_failures: int
    deadline: Any
    notify: Any
    notes: Any


NODE_KEYS = frozenset(NodeKeys.__annotations__)
WORKFLOW_KEYS = frozenset(WorkflowKeys.__annotations__)


def check_keys(given: Mapping[str, Any], allowed: frozenset[str], what: str) -> None:
    """Refuse unknown keywords where they are written, with a guess.

    Raises:
        TypeError: As Python does for an unknown keyword.
    """
    for key in given:
        if key not in allowed:
            import difflib

            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f", did you mean `{near[0]}`?" if near else f"; it has: {', '.join(sorted(allowed))}"
            raise TypeError(f"{what} has no key `{key}`{hint}")


def split_keywords(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of `node.<type>(id, …)` as (node keys, config).

    A name that is a node key is the node's; every other name is config. What both have (the `timeout` of http and
    wait) is therefore the attempt's limit, and the config's own is given as `config={"timeout": "5s"}`. A trailing
    underscore is dropped, for names that are words of Python: `node.wait("nap", for_="10s")`.

    Raises:
        TypeError: A name is given twice.
    """
    keys: dict[str, Any] = {}
    config: dict[str, Any] = dict(given.get("config", {}))
    for name, value in given.items():
        if name in NODE_KEYS:
            keys[name] = value
        elif name != "config":
            plain = name.removesuffix("_")
            if plain in config:
                raise TypeError(f"`{plain}` is given twice: as a keyword and in config")
            config[plain] = value
    return keys, config


def plain_duration(value: Any) -> Any:
    """A timedelta as a spec writes it; anything else as it is."""
    return format_duration(value) if isinstance(value, timedelta) else value

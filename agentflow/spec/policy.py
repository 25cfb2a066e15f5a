"""What holds for a node once the workflow's `defaults` and the built-in values are filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentflow.durations import parse_duration
from agentflow.spec.models import Defaults, NodeSpec, Repeat, Resources, WorkflowSpec
from agentflow.spec.resources import parse_cpu, parse_memory
from agentflow.states import TriggerRule
from agentflow.templates import References, find_references, find_references_in

#: Values of node keys that neither the node nor `defaults` writes (SEMANTICS section 1); the rest is None.
BUILT_IN: dict[str, Any] = {
    "trigger_rule": TriggerRule.ALL_SUCCESS,
    "retries": 0,
    "retry_delay": "10s",
    "retry_backoff": 1.0,
    "retry_max_delay": "1h",
    "retry_jitter": 0.0,
    "queue": "default",
    "pool": "default",
    "pool_slots": 1,
    "priority": 0,
}


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """How the engine treats a node; times in seconds, memory in bytes, cpu in cores."""

    trigger_rule: TriggerRule
    when: str | bool | None
    for_each: Any  #: One expression or a list; None: not mapped.
    max_parallel: int | None  #: Indexes at once.
    repeat: Repeat | None
    retries: int
    retry_delay: float
    retry_backoff: float
    retry_max_delay: float
    retry_jitter: float
    retry_on: list[str] | None  #: Error types and exit codes as text; None: all.
    fail_on: list[str] | None
    timeout: float | None
    executor: str | None  #: None: the environment's default.
    queue: str
    pool: str
    pool_slots: int
    priority: int
    memory: int | None
    cpu: float | None
    references: References  #: Of its config and `when` together.


def fallback(spec: WorkflowSpec, key: str) -> Any:
    """The value of a node key for nodes that do not write it."""
    value = getattr(spec.defaults, key)
    if value is None and key in {"executor", "queue"}:
        value = getattr(spec, key)
    return BUILT_IN.get(key) if value is None else value


def node_policy(spec: WorkflowSpec, node_id: str) -> NodePolicy:
    """The policy of one node of a valid spec."""
    node = spec.nodes[node_id]

    def get(key: str) -> Any:
        value = getattr(node, key)
        return fallback(spec, key) if value is None else value

    memory = _resource(node, spec.defaults, "memory")
    cpu = _resource(node, spec.defaults, "cpu")
    timeout = get("timeout")
    return NodePolicy(
        trigger_rule=TriggerRule(get("trigger_rule")),
        when=node.when,
        for_each=node.for_each,
        max_parallel=node.max_parallel,
        repeat=node.repeat,
        retries=get("retries"),
        retry_delay=_seconds(get("retry_delay")),
        retry_backoff=float(get("retry_backoff")),
        retry_max_delay=_seconds(get("retry_max_delay")),
        retry_jitter=float(get("retry_jitter")),
        retry_on=_rules(get("retry_on")),
        fail_on=_rules(get("fail_on")),
        timeout=None if timeout is None else _seconds(timeout),
        executor=get("executor"),
        queue=get("queue"),
        pool=get("pool"),
        pool_slots=get("pool_slots"),
        priority=get("priority"),
        memory=None if memory is None else parse_memory(memory),
        cpu=None if cpu is None else parse_cpu(cpu),
        references=node_references(node),
    )


def node_references(node: NodeSpec) -> References:
    """Everything the node's templates name."""
    from agentflow.nodes.registry import literal_fields

    found = find_references_in(node.config, literal_fields(node.type))
    return found.union(find_references(node.when)) if isinstance(node.when, str) else found


def _resource(node: NodeSpec, defaults: Defaults, key: str) -> Any:
    for resources in (node.resources, defaults.resources):
        value = getattr(resources or Resources(), key)
        if value is not None:
            return value
    return None


def _rules(given: list[str | int] | None) -> list[str] | None:
    return None if given is None else [str(rule) for rule in given]


def _seconds(text: str) -> float:
    return parse_duration(text).total_seconds()

"""Whether `for_each`, `max_parallel` and `repeat` stand where they can mean something."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentflow.spec.findings import Finding
from agentflow.spec.models import NodeSpec, WorkflowSpec
from agentflow.spec.paths import Path
from agentflow.templates import TemplateProblem, find_references

MAX_ITEMS = 10_000
_SUB_RUN = "workflow"
_BRANCH = "branch"


def flow_findings(spec: WorkflowSpec) -> Iterator[Finding]:
    """Everything wrong with how nodes are mapped and repeated; templates are checked elsewhere."""
    for node_id, node in spec.nodes.items():
        path: Path = ("nodes", node_id)
        yield from _mapping(node, path)
        yield from _repeating(node, path)


def _mapping(node: NodeSpec, path: Path) -> Iterator[Finding]:
    if node.for_each is None:
        if node.max_parallel is not None:
            yield Finding((*path, "max_parallel"), "`max_parallel` says nothing without `for_each`", "add `for_each`")
        return
    items = node.for_each
    if node.type == _BRANCH:
        yield Finding((*path, "for_each"), "a branch cannot be mapped: its downstreams go on once or not at all")
    elif isinstance(items, str):
        if not _is_one_expression(items):
            hint = 'write for_each: "{{ nodes.list.output }}", all of it inside {{ }}'
            yield Finding((*path, "for_each"), "`for_each` must be a list or exactly one {{ expression }}", hint)
    elif not isinstance(items, list):
        hint = "list its items, or write one {{ expression }} that gives a list"
        yield Finding((*path, "for_each"), f"`for_each` must be a list, not {_kind(items)}", hint)
    elif len(items) > MAX_ITEMS:
        yield Finding((*path, "for_each"), f"{len(items):,} items; at most {MAX_ITEMS:,} are run", "group them")


def _repeating(node: NodeSpec, path: Path) -> Iterator[Finding]:
    if node.repeat is None:
        return
    if node.type != _SUB_RUN:
        hint = "put the node into a workflow of its own and repeat that"
        yield Finding((*path, "repeat"), f"only nodes of type `{_SUB_RUN}` repeat, not `{node.type}`", hint)
    until = node.repeat.until
    if isinstance(until, str) and not _is_one_expression(until):
        hint = "all of it inside {{ }}, as in {{ nodes.loop.output.done }}"
        yield Finding((*path, "repeat", "until"), "`until` must be exactly one {{ expression }}, true or false", hint)


def _is_one_expression(text: str) -> bool:
    try:
        return find_references(text).pure
    except TemplateProblem:
        return True  # reported with the templates


def _kind(value: Any) -> str:
    return {dict: "a mapping", bool: "true or false", int: "a number", float: "a number"}.get(type(value), "this")

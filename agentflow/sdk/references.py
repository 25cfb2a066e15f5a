"""Upstreams that a body names only in text: f-strings and hand-written templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentflow.errors import AgentFlowError

if TYPE_CHECKING:
    from agentflow.sdk.graph import NodeDraft


def add_needs_of_texts(drafts: Mapping[str, NodeDraft]) -> None:
    """Let every node wait for the nodes that its texts mention.

    A node that is upstream already, directly or not, gets no second edge: trigger rules count direct upstreams, so an
    edge that nobody drew must not appear where none is needed.
    """
    for draft in drafts.values():
        if draft.texts:
            for name in sorted(_mentioned(draft)):
                if name in drafts and name != draft.id and not _is_upstream(name, draft, drafts):
                    draft.needs[name] = None


def _mentioned(draft: NodeDraft) -> set[str]:
    from agentflow.templates import TemplateProblem, find_references

    literal = _literal_fields(draft.type)
    found: set[str] = set()
    for field_name, text in draft.texts:
        if field_name in literal:
            continue
        try:
            found |= find_references(text).nodes
        except TemplateProblem:
            continue  # validation reports it, with its place in the spec
    return found


def _literal_fields(node_type: str) -> frozenset[str]:
    from agentflow.nodes import registry

    try:
        return registry.literal_fields(node_type)
    except AgentFlowError:  # unknown or broken: validation says so
        return frozenset()


def _is_upstream(name: str, draft: NodeDraft, drafts: Mapping[str, NodeDraft]) -> bool:
    if name in draft.needs:
        return True
    seen = set(draft.needs)
    todo = list(draft.needs)
    while todo:
        upstream = drafts.get(todo.pop())
        for need in upstream.needs if upstream is not None else ():
            if need == name:
                return True
            if need not in seen:
                seen.add(need)
                todo.append(need)
    return False

"""The graph that a workflow body draws: drafts of nodes, their results, their edges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentflow.errors import WorkflowBodyError
from agentflow.sdk.expressions import Expression, nodes_of, template
from agentflow.sdk.keys import plain_duration

_current: ContextVar[GraphBuilder | None] = ContextVar("agentflow_graph", default=None)


@dataclass(eq=False, slots=True)
class NodeDraft:
    """One node while the body is running."""

    id: str
    type: str
    graph: GraphBuilder
    line: int | None  #: Where the body made it.
    keys: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, None] = field(default_factory=dict)  #: Ids in the order in which they came.
    texts: list[tuple[str, str]] = field(default_factory=list)  #: (top-level config field, hand-written template).

    def document(self) -> dict[str, Any]:
        """The node as a spec writes it."""
        document: dict[str, Any] = {"type": self.type}
        if self.needs:
            document["needs"] = list(self.needs)
        document |= self.keys
        if self.config:
            document["config"] = self.config
        return document


class NodeResult(Expression):
    """What a node will return: an argument for other nodes, and an end of `>>`."""

    __slots__ = ("_draft",)

    def __init__(self, draft: NodeDraft) -> None:
        name = f"nodes['{draft.id}']" if "-" in draft.id else f"nodes.{draft.id}"
        super().__init__(f"{name}.output", frozenset({draft}))
        self._draft = draft

    def __rshift__(self, other: Any) -> Any:
        """`a >> b` and `a >> [b, c]`: these wait for `a`. Gives the right side, so that chains go on."""
        connect([self], drafts_in(other))
        return other

    def __lshift__(self, other: Any) -> Any:
        """`b << a`: the same, read from the right."""
        connect(drafts_in(other), [self._draft])
        return other

    def __rrshift__(self, other: Any) -> NodeResult:
        """`[a, b] >> c`."""
        connect(drafts_in(other), [self._draft])
        return self

    def __rlshift__(self, other: Any) -> NodeResult:
        """`[b, c] << a`."""
        connect([self._draft], drafts_in(other))
        return self


def drafts_in(value: Any) -> list[NodeDraft]:
    """The nodes of one result or of a list of them.

    Raises:
        WorkflowBodyError: Something else.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if not isinstance(item, NodeResult):
            raise WorkflowBodyError(
                f"`>>` joins nodes, and {item!r} is none",
                hint="Both sides are results of node calls made in this body, or lists of them.",
            )
    return [item._draft for item in items]  # noqa: SLF001 - a public name would hide an attribute of the output


def connect(upstream: Iterable[NodeDraft | NodeResult], downstream: Iterable[NodeDraft]) -> None:
    """Make every downstream wait for every upstream."""
    ups = [item._draft if isinstance(item, NodeResult) else item for item in upstream]  # noqa: SLF001 - as above
    for down in downstream:
        for up in ups:
            down.graph.need(down, up)


def current_graph() -> GraphBuilder | None:
    """The graph of the workflow body that is running, if one is."""
    return _current.get()


class GraphBuilder:
    """Collects the nodes of one workflow body, in the order in which it makes them."""

    def __init__(self, workflow: str) -> None:
        self.workflow = workflow
        self.drafts: dict[str, NodeDraft] = {}

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Node calls inside go to this graph."""
        outer = _current.get()
        if outer is not None:
            raise WorkflowBodyError(f"workflow `{self.workflow}` is drawn inside the body of `{outer.workflow}`")
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def free_id(self, base: str) -> str:
        """`base`, or the first of `base_2`, `base_3`, … that is not taken."""
        candidate, number = base, 1
        while candidate in self.drafts:
            number += 1
            candidate = f"{base}_{number}"
        return candidate

    def add(
        self, node_id: str, node_type: str, *, keys: Mapping[str, Any], config: Mapping[str, Any], line: int | None
    ) -> NodeResult:
        """Add a node; results among its values become templates and upstreams.

        Raises:
            WorkflowBodyError: The id is taken, or a value cannot be written into a spec.
        """
        if node_id in self.drafts:
            raise WorkflowBodyError(
                f"node id `{node_id}` is used twice",
                hint="Ids given by hand are taken as they are; choose another one.",
            )
        draft = NodeDraft(node_id, node_type, self, line)
        for name, value in keys.items():
            if name == "needs":
                self._add_needs(draft, value)
            else:
                draft.keys[name] = self.plain(value, draft, name, field_name="")
        for name, value in config.items():
            draft.config[name] = self.plain(value, draft, name, field_name=name)
        self.drafts[node_id] = draft
        return NodeResult(draft)

    def need(self, down: NodeDraft, up: NodeDraft) -> None:
        """Make `down` wait for `up`.

        Raises:
            WorkflowBodyError: They belong to different workflows, or are the same node.
        """
        if up.graph is not self:
            raise WorkflowBodyError(f"`{up.id}` belongs to workflow `{up.graph.workflow}`, not to `{self.workflow}`")
        if up is down:
            raise WorkflowBodyError(f"node `{up.id}` cannot wait for itself")
        down.needs[up.id] = None

    def _add_needs(self, draft: NodeDraft, value: Any) -> None:
        for item in [value] if isinstance(value, (str, NodeResult)) else value:
            if isinstance(item, str):
                draft.needs[item] = None
            else:
                connect(drafts_in(item), [draft])

    def plain(self, value: Any, draft: NodeDraft, path: str, *, field_name: str) -> Any:
        """A value as JSON, expressions as templates; notes what it needs on the draft.

        Raises:
            WorkflowBodyError: It is not JSON; the message names the path.
        """
        if isinstance(value, Expression):
            for up in sorted(nodes_of(value), key=lambda item: item.id):
                self.need(draft, up)
            return template(value)
        value = plain_duration(value)
        if isinstance(value, str):
            if "{{" in value or "{%" in value:
                draft.texts.append((field_name, str(value)))
            return str(value)
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, (list, tuple)):
            return [self.plain(item, draft, f"{path}[{n}]", field_name=field_name) for n, item in enumerate(value)]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {
                str(key): self.plain(item, draft, f"{path}.{key}", field_name=field_name) for key, item in value.items()
            }
        shown = repr(value) if isinstance(value, (float, Mapping)) else f"a {type(value).__name__}"
        raise WorkflowBodyError(
            f"`{path}` of node `{draft.id}` is {shown[:100]}; what a workflow body passes on is written into the spec as JSON",
            hint="Pass text, numbers, booleans, None, lists, dicts with text keys, or other nodes' results.",
        )

    def documents(self) -> dict[str, Any]:
        """The `nodes` of the spec."""
        from agentflow.sdk.references import add_needs_of_texts

        add_needs_of_texts(self.drafts)
        return {draft.id: draft.document() for draft in self.drafts.values()}

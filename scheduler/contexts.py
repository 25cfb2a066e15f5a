"""Template contexts of nodes about to run or to be evaluated: only what their templates name."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries import inputs
from agentflow.db.queries.gates import items_of
from agentflow.db.queries.outputs import FoundOutput
from agentflow.templates import References
from scheduler.versions import LoadedVersion

INPUT_MAX = 64 * 2**20  #: Bytes of upstream outputs that one node may read.
TOO_LARGE = (
    "the outputs that this node reads are over 64 MiB together; pass references (paths, keys) instead of the data"
)
_RUNS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Asking:
    """A node that needs its context."""

    run_id: uuid.UUID
    version: LoadedVersion
    references: References
    node_no: int = -1  #: The node itself, where `item` or its own output may be named.
    map_index: int = NOT_MAPPED
    own: dict[str, Any] | None = None  #: `{output, state}` of the node's own round before this one.


@dataclass(frozen=True, slots=True)
class Loaded:
    """The context of a node, and the outputs that are missing in it because they are large."""

    context: dict[str, Any]
    large: dict[str, FoundOutput] = field(default_factory=dict)  #: By node.


class ContextLoader:
    """Builds contexts in few queries. For one thread."""

    def __init__(self) -> None:
        self._runs: OrderedDict[uuid.UUID, inputs.RunContext] = OrderedDict()

    def request_id(self, run_id: uuid.UUID) -> str | None:
        """The id of the request that made a run whose context was just loaded."""
        return self._runs[run_id].request_id if run_id in self._runs else None

    def load(self, connection: Connection, asking: Sequence[Asking]) -> list[Loaded | None]:
        """A context per asking node, in order; None where its inputs are over INPUT_MAX."""
        runs = self._run_parts(connection, {ask.run_id for ask in asking})
        upstreams = self._upstreams(connection, asking)
        variables = self._variables(connection, asking)
        items = self._items(connection, asking)
        contexts: list[Loaded | None] = []
        for position, ask in enumerate(asking):
            if position in upstreams.too_large:
                contexts.append(None)
                continue
            numbers = ask.version.numbers
            nodes = {
                node: upstreams.values.get((position, numbers[node]), {"output": None, "state": "pending"})
                for node in ask.references.nodes
                if node in numbers
            }
            known = variables.get(ask.version.workspace_id, {})
            every = "vars" in ask.references.dynamic
            named = {name: value for name, value in known.items() if every or name in ask.references.vars}
            if ask.own is not None:
                nodes[ask.version.node_ids[ask.node_no]] = ask.own
            context = {**runs[ask.run_id].names, "nodes": nodes, "vars": named}
            if ask.map_index != NOT_MAPPED:
                context |= {"index": ask.map_index, "item": items.get((ask.run_id, ask.node_no, ask.map_index))}
            large = {
                node: upstreams.large[position, numbers[node]]
                for node, shown in nodes.items()
                if shown is not ask.own and (position, numbers[node]) in upstreams.large
            }
            contexts.append(Loaded(context, large))
        return contexts

    def _run_parts(self, connection: Connection, ids: set[uuid.UUID]) -> dict[uuid.UUID, inputs.RunContext]:
        missing = ids - self._runs.keys()
        if missing:
            self._runs.update(inputs.run_contexts(connection, missing))
        found = {run_id: self._runs[run_id] for run_id in ids}
        while len(self._runs) > _RUNS_KEPT:
            self._runs.popitem(last=False)
        return found

    @staticmethod
    def _items(connection: Connection, asking: Sequence[Asking]) -> dict[tuple[uuid.UUID, int, int], Any]:
        keys = [
            (ask.run_id, ask.node_no, ask.map_index)
            for ask in asking
            if ask.map_index != NOT_MAPPED and "item" in ask.references.names
        ]
        return items_of(connection, keys) if keys else {}

    @staticmethod
    def _variables(connection: Connection, asking: Sequence[Asking]) -> dict[int, dict[str, Any]]:
        """Values by workspace of all variables that these nodes name: one query a workspace, most batches none."""
        wanted: dict[int, References] = {}
        for ask in asking:
            if "vars" in ask.references.names:
                before = wanted.get(ask.version.workspace_id, ask.references)
                wanted[ask.version.workspace_id] = before.union(ask.references)
        return {
            workspace: inputs.variables(connection, workspace, names.vars, every="vars" in names.dynamic)
            for workspace, names in wanted.items()
        }

    @staticmethod
    def _upstreams(connection: Connection, asking: Sequence[Asking]) -> inputs.Upstreams:
        wanted = [
            (position, ask.run_id, ask.version.numbers[node])
            for position, ask in enumerate(asking)
            for node in ask.references.nodes
            if node in ask.version.numbers
        ]
        if not wanted:
            return inputs.Upstreams()
        mapped = {
            (ask.run_id, ask.version.numbers[node])
            for ask in asking
            for node in ask.references.nodes
            if node in ask.version.numbers and ask.version.is_mapped(ask.version.numbers[node])
        }
        return inputs.upstream_values(connection, wanted, mapped=mapped, cap=INPUT_MAX)

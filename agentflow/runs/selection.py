"""Which node runs a clear means: from addresses and directions to whole nodes and single indexes. The choice is pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.locks import LockedRun
from agentflow.errors import NotFound
from agentflow.runs.address import Step
from agentflow.states import NODE_RUN_SLOTTED, NodeRunState

#: What `only_failed` means: ended without having done its work.
FAILED = frozenset({NodeRunState.FAILED, NodeRunState.UPSTREAM_FAILED, NodeRunState.CANCELLED})
SUB_RUN = "workflow"


@dataclass(frozen=True, slots=True)
class NodeRunRow:
    """A node run as the selection sees it."""

    node_no: int
    map_index: int
    node_id: str
    type: str
    state: NodeRunState

    @property
    def address(self) -> str:
        """`fetch`, or `fetch[3]`."""
        return str(Step(self.node_id, None if self.map_index == NOT_MAPPED else self.map_index))

    @property
    def busy(self) -> bool:
        """Whether something of it is under way that would have to be stopped: an attempt, or a sub-run."""
        return self.state in NODE_RUN_SLOTTED or (self.type == SUB_RUN and self.state is NodeRunState.DEFERRED)


@dataclass(slots=True)
class Selection:
    """Whole nodes (with all their indexes), and single indexes of other ones."""

    nodes: set[int] = field(default_factory=set)
    indexes: set[tuple[int, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.indexes)

    def holds(self, row: NodeRunRow) -> bool:
        """Whether a node run is meant, by itself or with its node."""
        return row.node_no in self.nodes or (row.node_no, row.map_index) in self.indexes


_ROWS = text("""
SELECT nr.node_no, nr.map_index, vn.node_id, vn.type, nr.state FROM node_run nr
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = :run ORDER BY nr.run_id, nr.node_no, nr.map_index FOR NO KEY UPDATE OF nr
""")
_EDGES = text("SELECT up_no, down_no FROM version_edge WHERE version_id = :version")


def lock_rows(connection: Connection, run_id: uuid.UUID) -> list[NodeRunRow]:
    """All node runs of a run whose row is locked, locked too, in key order."""
    return [
        NodeRunRow(row.node_no, row.map_index, row.node_id, row.type, NodeRunState(row.state))
        for row in connection.execute(_ROWS, {"run": run_id})
    ]


def select(
    connection: Connection,
    run: LockedRun,
    rows: Sequence[NodeRunRow],
    addresses: Sequence[str] | None,
    *,
    upstream: bool,
    downstream: bool,
    only_failed: bool,
) -> Selection:
    """The node runs that are meant; all when `addresses` is None.

    Raises:
        NotFound: The run has no such node or index.
    """
    chosen = Selection({row.node_no for row in rows}) if addresses is None else named(rows, addresses)
    if addresses is not None and (upstream or downstream):
        edges = [tuple(row) for row in connection.execute(_EDGES, {"version": run.version_id})]
        start = chosen.nodes | {node for node, _ in chosen.indexes}
        if downstream:
            chosen.nodes |= reachable(start, [(up, down) for up, down in edges]) - start
        if upstream:
            chosen.nodes |= reachable(start, [(down, up) for up, down in edges]) - start
    return narrow_to_failed(chosen, rows) if only_failed else chosen


def named(rows: Sequence[NodeRunRow], addresses: Sequence[str]) -> Selection:
    """The node runs that these addresses (within this run, see `localise`) name; raises as `select` does."""
    by_address = {row.address: row for row in rows}
    chosen = Selection()
    for address in addresses:
        row = by_address.get(address)
        if row is None:
            names = ", ".join([row.address for row in rows if row.map_index == NOT_MAPPED][:10])
            raise NotFound(f"The run has no node {address!r}.", hint=f"it has {names}")
        if row.map_index == NOT_MAPPED:
            chosen.nodes.add(row.node_no)
        else:
            chosen.indexes.add((row.node_no, row.map_index))
    chosen.indexes = {key for key in chosen.indexes if key[0] not in chosen.nodes}
    return chosen


def reachable(start: Collection[int], edges: Sequence[tuple[int, int]]) -> set[int]:
    """Everything that the edges lead to from `start`, without it unless a way leads back."""
    following: dict[int, list[int]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    found: set[int] = set()
    waiting = list(start)
    while waiting:
        for node in following.get(waiting.pop(), ()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def narrow_to_failed(chosen: Selection, rows: Sequence[NodeRunRow]) -> Selection:
    """Only what failed; of a mapped node that failed only its failed indexes, unless it failed before it had any."""
    states: Mapping[int, NodeRunState] = {row.node_no: row.state for row in rows if row.map_index == NOT_MAPPED}
    mapped = {row.node_no for row in rows if row.map_index != NOT_MAPPED}
    return Selection(
        {node for node in chosen.nodes if states[node] in FAILED and node not in mapped},
        {
            (row.node_no, row.map_index)
            for row in rows
            if row.map_index != NOT_MAPPED and chosen.holds(row) and row.state in FAILED
        },
    )

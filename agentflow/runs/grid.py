"""The run grid of a workflow: nodes down, runs across, a state in each cell (SEMANTICS section 10)."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.catalog.versions import spec_of
from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.kept import Kept
from agentflow.db.queries.grid import CELLS, read_columns
from agentflow.errors import NotFound

CURSOR = "grid"
_ORDERS_KEPT = 500_000  #: Nodes of the versions whose order of nodes is kept in memory; it never changes.
_ROWS_KEPT = 100_000  #: Rows of grids that are kept in memory; like the versions they follow from, they never change.
_AFTER_ALL = uuid.UUID(int=2**128 - 1)

_RUNS = text("""
SELECT r.id, r.state, r.triggered_by, r.logical_date, r.created_at, r.started_at, r.finished_at, r.event_seq, r.grid,
  r.version_id, v.version, extract(epoch FROM coalesce(r.finished_at, clock_timestamp()) - r.started_at) AS duration
FROM run r JOIN workflow_version v ON v.id = r.version_id
WHERE r.workflow_id = :workflow AND r.id < :before ORDER BY r.id DESC LIMIT :limit
""")
_NODES = text(
    "SELECT version_id, node_id FROM version_node WHERE version_id = ANY(:versions) ORDER BY version_id, node_no"
)

Order = tuple[str, ...]  #: Ids of a version's nodes.
Rows = tuple[list[dict[str, Any]], str]  #: Of a grid, and their ETag.

_orders: Kept[tuple[int], Order] = Kept("order", most=_ORDERS_KEPT, weigh=lambda order: 1 + len(order), decode=tuple)
_rows: Kept[tuple[int, ...], Rows] = Kept("rows", most=_ROWS_KEPT, weigh=lambda rows: 1 + len(rows[0]), decode=tuple)


def read_grid(
    connection: Connection,
    name: str,
    *,
    runs: int = 25,
    cursor: str | None = None,
    structure: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """The newest runs of a workflow with the states of their nodes.

    Args:
        connection: In a transaction.
        name: Of the workflow.
        runs: At most so many.
        cursor: `next_cursor` of the page before: older runs.
        structure: The `structure_etag` that the caller has; `nodes` is then null if it is still right.
        workspace: Its tenant.

    Raises:
        NotFound: No such workflow, or it has no version.
        UsageError: The cursor is not one of this list.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    if workflow.published_version_id is None:
        raise NotFound(f"The workflow {name!r} has no version.")
    before = _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, uuid.UUID)
    rows = connection.execute(_RUNS, {"workflow": workflow.id, "before": before, "limit": runs + 1}).all()
    following = write_cursor(CURSOR, rows[runs - 1].id) if len(rows) > runs else None
    rows = rows[:runs]
    published = workflow.published_version_id
    orders = _node_orders(connection, workflow.workspace_id, {published, *(row.version_id for row in rows)})
    nodes, etag = _structure(connection, workflow.workspace_id, published, _versions(rows), orders)
    live = read_columns(connection, [row.id for row in rows if row.grid is None])
    columns = [(orders[row.version_id], bytes(row.grid) if row.grid is not None else live[row.id]) for row in rows]
    return {
        "structure_etag": etag,
        "nodes": None if structure == etag else nodes,
        "runs": [_run(row) for row in rows],
        "cells": base64.b64encode(lay_out([node["id"] for node in nodes], columns)).decode(),
        "states": [state.value if state is not None else None for state in CELLS],
        "next_cursor": following,
    }


def lay_out(nodes: Sequence[str], columns: Iterable[tuple[Sequence[str], bytes]]) -> bytes:
    """The cells column by column: each column, in the order of its own version's nodes, is put into that of `nodes`."""
    places: dict[Sequence[str], list[int]] = {}
    cells = bytearray()
    same = tuple(nodes)
    for order, packed in columns:
        column = packed.ljust(len(order), b"\0")  # shorter: of a run whose version was deleted under it
        if order == same:
            cells += column
            continue
        if order not in places:
            number = {node: place for place, node in enumerate(order)}
            places[order] = [number.get(node, len(order)) for node in nodes]
        padded = column + b"\0"
        cells += bytes([padded[place] for place in places[order]])
    return bytes(cells)


def _run(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "state": row.state,
        "triggered_by": row.triggered_by,
        "logical_date": iso(row.logical_date),
        "created_at": iso(row.created_at),
        "duration": round(float(row.duration), 6) if row.duration is not None else None,
        "version": row.version,
        "event_seq": row.event_seq,
    }


def _versions(rows: Sequence[Row[Any]]) -> tuple[int, ...]:
    """Ids of the versions shown, the newest first."""
    return tuple(dict.fromkeys(row.version_id for row in sorted(rows, key=lambda row: row.version, reverse=True)))


def _structure(
    connection: Connection, workspace_id: int, published: int, shown: tuple[int, ...], orders: Mapping[int, Order]
) -> Rows:
    def make() -> Rows:
        older = [node for version in shown for node in orders[version]]
        nodes = _nodes(spec_of(connection, workspace_id, published), orders[published], older)
        return nodes, hashlib.sha256(json.dumps(nodes).encode()).hexdigest()[:32]

    return _rows.one(connection, workspace_id, (published, *shown), make)


def _nodes(spec: Mapping[str, Any], order: Sequence[str], older: Iterable[str]) -> list[dict[str, Any]]:
    present = set(order)
    described = [
        {
            "id": node,
            "type": spec["nodes"][node]["type"],
            "title": spec["nodes"][node].get("title"),
            "group": spec["nodes"][node].get("group"),
            "needs": spec["nodes"][node].get("needs", []),
            "mapped": spec["nodes"][node].get("for_each") is not None,
            "removed": False,
        }
        for node in order
    ]
    gone = [node for node in dict.fromkeys(older) if node not in present]
    return described + [
        {"id": node, "type": None, "title": None, "group": None, "needs": [], "mapped": False, "removed": True}
        for node in gone
    ]


def _node_orders(connection: Connection, workspace_id: int, versions: Collection[int]) -> dict[int, Order]:
    def read(missing: list[tuple[int]]) -> dict[tuple[int], Order]:
        nodes: dict[int, list[str]] = {version: [] for (version,) in missing}
        for row in connection.execute(_NODES, {"versions": sorted(nodes)}):
            nodes[row.version_id].append(row.node_id)
        return {(version,): tuple(found) for version, found in nodes.items()}

    found = _orders.many(connection, workspace_id, [(version,) for version in versions], read)
    return {version: order for (version,), order in found.items()}

"""The run grid of a workflow: nodes down, runs across, a state in each cell (SEMANTICS section 10)."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.catalog.versions import spec_of
from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.queries.grid import CELLS, read_columns
from agentflow.errors import NotFound

CURSOR = "grid"
_KEPT = 512  #: Versions whose order of nodes is kept in memory; it never changes.
_STRUCTURES_KEPT = 64  #: Rows of grids that are kept in memory.
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

_caches: WeakKeyDictionary[Engine, OrderedDict[int, tuple[str, ...]]] = WeakKeyDictionary()
_structures: WeakKeyDictionary[Engine, OrderedDict[tuple[int, tuple[int, ...]], tuple[list[dict[str, Any]], str]]] = (
    WeakKeyDictionary()
)
_lock = Lock()


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
    orders = _node_orders(connection, {published, *(row.version_id for row in rows)})
    nodes, etag = _structure(connection, published, _versions(rows), orders)
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
    connection: Connection, published: int, shown: tuple[int, ...], orders: Mapping[int, tuple[str, ...]]
) -> tuple[list[dict[str, Any]], str]:
    """The rows of the grid and their ETag; like the versions they follow from, they never change."""
    with _lock:
        cache = _structures.setdefault(connection.engine, OrderedDict())
        if (published, shown) in cache:
            cache.move_to_end((published, shown))
            return cache[published, shown]
    older = [node for version in shown for node in orders[version]]
    nodes = _nodes(spec_of(connection, published), orders[published], older)
    found = nodes, hashlib.sha256(json.dumps(nodes).encode()).hexdigest()[:32]
    with _lock:
        cache[published, shown] = found
        while len(cache) > _STRUCTURES_KEPT:
            cache.popitem(last=False)
    return found


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


def _node_orders(connection: Connection, versions: set[int]) -> dict[int, tuple[str, ...]]:
    with _lock:
        cache = _caches.setdefault(connection.engine, OrderedDict())
        found = {version: cache[version] for version in versions if version in cache}
    missing = versions - found.keys()
    if missing:
        read: dict[int, list[str]] = {version: [] for version in missing}
        for row in connection.execute(_NODES, {"versions": sorted(missing)}):
            read[row.version_id].append(row.node_id)
        found |= {version: tuple(nodes) for version, nodes in read.items()}
    with _lock:
        for version in versions:
            cache[version] = found[version]
            cache.move_to_end(version)
        while len(cache) > _KEPT:
            cache.popitem(last=False)
    return found

"""Reading a run with its node runs; pages of many runs are in `listing`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, TextClause, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.db.arrays import ints
from agentflow.db.queries.outputs import INLINE_MAX, PREVIEW
from agentflow.runs.address import Place, resolve_address
from agentflow.runs.ids import find_run, no_run

SELECT_RUN = """
SELECT r.id, w.name AS workflow, v.version, r.state, r.triggered_by, r.params, r.logical_date, r.note, r.created_at,
  r.started_at, r.finished_at, r.timed_out, r.event_seq, r.request_id, r.backfill_id, r.total_nodes, r.open_nodes,
  r.state_counts
FROM run r JOIN workflow w ON w.id = r.workflow_id JOIN workflow_version v ON v.id = r.version_id
"""
_RUN = text(f"{SELECT_RUN} WHERE r.id = :id")
#: Before a run starts, and when it was cancelled before that, it has no node runs: they are told from its version.
_NODE_RUNS = """
SELECT vn.node_id, coalesce(nr.map_index, -1) AS map_index,
  coalesce(nr.state, CASE r.state WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END) AS state,
  coalesce(nr.attempt, 0) AS attempt, nr.executor, nr.ready_at, nr.queued_at, nr.started_at, nr.finished_at, nr.error,
  nr.resume_at, coalesce(b.bytes, o.bytes) AS output_bytes,
  CASE WHEN coalesce(b.bytes, o.bytes) <= :inline THEN coalesce(m.value, o.value) END AS output,
  CASE WHEN b.bytes > :inline THEN p.preview
    WHEN o.bytes > :inline THEN coalesce(o.preview, left(CAST(o.value AS text), :preview)) END AS preview, s.sub_runs
FROM {source}
{lists}
{sub_runs}
WHERE r.id = :id
ORDER BY vn.node_no, nr.map_index
"""
#: What a mapped node is shown with: the list of its indexes' outputs. Its bytes; all of it; its beginning.
_LISTS = """
LEFT JOIN LATERAL (
  SELECT sum(coalesce(io.bytes, 4) + 1)::bigint + 1 AS bytes
  FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
    AND io.map_index = i.map_index AND io.run_id = :id AND i.state = 'success'
  WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0
    AND vn.mapped AND nr.map_index = -1 AND nr.state = 'success'
) AS b ON true
LEFT JOIN LATERAL (
  SELECT CAST('[' || string_agg(CASE WHEN i.state = 'success' THEN coalesce(CAST(io.value AS text), 'null')
      ELSE 'null' END, ',' ORDER BY i.map_index) || ']' AS json) AS value
  FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
    AND io.map_index = i.map_index AND io.run_id = :id
  WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0 AND b.bytes <= :inline
) AS m ON true
LEFT JOIN LATERAL (
  SELECT left('[' || string_agg(f.text, ',' ORDER BY f.map_index), :preview) AS preview FROM (
    SELECT i.map_index, CASE WHEN i.state = 'success'
      THEN coalesce(io.preview, left(CAST(io.value AS text), :preview), 'null') ELSE 'null' END AS text
    FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
      AND io.map_index = i.map_index AND io.run_id = :id
    WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0 AND b.bytes > :inline
    ORDER BY i.map_index LIMIT :preview / 2
  ) AS f
) AS p ON true
"""
_NO_LISTS = """
CROSS JOIN (SELECT CAST(NULL AS bigint) AS bytes) AS b
CROSS JOIN (SELECT CAST(NULL AS json) AS value) AS m CROSS JOIN (SELECT CAST(NULL AS text) AS preview) AS p
"""
_SUB_RUNS = """
LEFT JOIN LATERAL (
  SELECT json_agg(json_build_object('seq', c.parent_seq, 'id', c.id, 'state', c.state) ORDER BY c.parent_seq) AS sub_runs
  FROM run c WHERE c.parent_run_id = :id AND c.parent_node_no = vn.node_no AND c.parent_map_index = nr.map_index
    AND vn.type = 'workflow'
) AS s ON true
"""
_NO_SUB_RUNS = "CROSS JOIN (SELECT CAST(NULL AS json) AS sub_runs) AS s"
_ALL_NODES = """run r JOIN version_node vn ON vn.version_id = r.version_id
LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = vn.node_no AND nr.run_id = :id
LEFT JOIN output o ON o.run_id = r.id AND o.node_no = vn.node_no AND o.map_index = nr.map_index AND o.run_id = :id"""
#: LATERAL with OFFSET 0 keeps a planner that knows nothing of the run from joining by half of a key.
_SOME_NODES = """run r CROSS JOIN unnest(CAST(:nos AS int[]), CAST(:indexes AS int[])) AS k(no, map_index)
JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = k.no
LEFT JOIN LATERAL (
  SELECT * FROM node_run WHERE run_id = :id AND node_no = k.no AND map_index = k.map_index OFFSET 0) AS nr ON true
LEFT JOIN LATERAL (
  SELECT * FROM output WHERE run_id = :id AND node_no = k.no AND map_index = k.map_index OFFSET 0) AS o ON true"""
_KINDS = text("""
SELECT coalesce(bool_or(vn.mapped), false) AS lists, coalesce(bool_or(vn.type = 'workflow'), false) AS sub_runs
FROM run r JOIN version_node vn ON vn.version_id = r.version_id WHERE r.id = :id
""")


@cache
def _statement(source: str, *, lists: bool, sub_runs: bool) -> TextClause:
    """Node runs with no more than these nodes can have: under the policies each table costs more to plan than to read."""
    return text(
        _NODE_RUNS.format(
            source=source,
            lists=_LISTS if lists else _NO_LISTS,
            sub_runs=_SUB_RUNS if sub_runs else _NO_SUB_RUNS,
        )
    )


class NodeKey(NamedTuple):
    """A node run, and what is known of its node."""

    no: int
    map_index: int
    mapped: bool
    type: str


def run_document(row: Any) -> dict[str, Any]:
    """A run as people see it, without its nodes; from a row with SELECT_RUN."""
    return {
        "id": str(row.id),
        "workflow": row.workflow,
        "version": row.version,
        "state": row.state,
        "triggered_by": row.triggered_by,
        "params": row.params,
        "logical_date": iso(row.logical_date),
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "note": row.note or None,
        "timed_out": row.timed_out,
        "event_seq": row.event_seq,
        "request_id": row.request_id,
        "backfill": str(row.backfill_id) if row.backfill_id is not None else None,
        "total_nodes": row.total_nodes,
        "open_nodes": row.open_nodes,
        "state_counts": row.state_counts,
    }


def _address(row: Any) -> str:
    name: str = row.node_id
    return name if row.map_index < 0 else f"{name}[{row.map_index}]"


def _node_document(row: Any, run_id: uuid.UUID) -> dict[str, Any]:
    output = row.output
    if row.output_bytes is not None and row.output_bytes > INLINE_MAX:
        output = {"$ref": f"{run_id}/{_address(row)}", "bytes": row.output_bytes, "preview": row.preview}
    node = _address(row)
    subs = [
        {"address": f"{node}.sub[{sub['seq']}]", "id": sub["id"], "state": sub["state"]} for sub in row.sub_runs or ()
    ]
    return {
        "node": row.node_id,
        "map_index": None if row.map_index < 0 else row.map_index,
        "state": row.state,
        "attempt": row.attempt,
        "executor": row.executor,
        "ready_at": iso(row.ready_at),
        "queued_at": iso(row.queued_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "resume_at": iso(row.resume_at),
        "output": output,
        "error": row.error,
    } | ({"sub_runs": subs} if subs else {})


def show_run_row(connection: Connection, run_id: uuid.UUID) -> dict[str, Any]:
    """A run without its nodes.

    Raises:
        NotFound: No such run.
    """
    row = connection.execute(_RUN, {"id": run_id}).one_or_none()
    if row is None:
        raise no_run(run_id)
    return run_document(row)


def show_run_alone(
    connection: Connection, run_id: str, address: str | None = None, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """A run without its nodes; with an address the run that it leads into.

    Raises:
        NotFound: No such run, node, index or sub-run.
        UsageError: `address` is not one.
    """
    return show_run_row(connection, _place(connection, run_id, address, workspace).run_id)


def _place(connection: Connection, run_id: str, address: str | None, workspace: str) -> Place:
    if address is None:
        return Place(find_run(connection, run_id, workspace=workspace), None)
    return resolve_address(connection, run_id, address, workspace=workspace)


def show_run(
    connection: Connection, run_id: str, address: str | None = None, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """A run with `nodes`, in spec order; with an address the run that it leads into, with no other nodes than it names.

    Raises:
        NotFound: No such run, node, index or sub-run.
        UsageError: `address` is not one.
    """
    place = _place(connection, run_id, address, workspace)
    document = show_run_row(connection, place.run_id)
    return document | {"nodes": node_documents(connection, place.run_id, place=place)}


def node_documents(
    connection: Connection, run_id: uuid.UUID, keys: Sequence[NodeKey] | None = None, *, place: Place | None = None
) -> list[dict[str, Any]]:
    """Node runs of a run in the order of its workflow: those of the keys, those that a place holds, or all."""
    parameters: dict[str, Any] = {"id": run_id, "inline": INLINE_MAX, "preview": PREVIEW}
    if keys is None:
        kinds = connection.execute(_KINDS, {"id": run_id}).one()
        statement = _statement(_ALL_NODES, lists=kinds.lists, sub_runs=kinds.sub_runs)
    else:
        lists, sub_runs = any(key.mapped for key in keys), any(key.type == "workflow" for key in keys)
        statement = _statement(_SOME_NODES, lists=lists, sub_runs=sub_runs)
        parameters |= {"nos": ints(key.no for key in keys), "indexes": ints(key.map_index for key in keys)}
    rows = connection.execute(statement, parameters)
    return [_node_document(row, run_id) for row in rows if place is None or place.holds(row)]

"""Reading a run with its node runs; pages of many runs are in `listing`."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text

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
LEFT JOIN output o ON o.run_id = r.id AND o.node_no = vn.node_no AND o.map_index = nr.map_index AND o.run_id = :id
LEFT JOIN LATERAL (
  SELECT sum(coalesce(io.bytes, 4) + 1)::bigint + 1 AS bytes
  FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
    AND io.map_index = i.map_index AND io.run_id = :id AND i.state = 'success'
  WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0
) AS b ON vn.mapped AND nr.map_index = -1 AND nr.state = 'success'
LEFT JOIN LATERAL (
  SELECT CAST('[' || string_agg(CASE WHEN i.state = 'success' THEN coalesce(CAST(io.value AS text), 'null')
      ELSE 'null' END, ',' ORDER BY i.map_index) || ']' AS json) AS value
  FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
    AND io.map_index = i.map_index AND io.run_id = :id
  WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0
) AS m ON b.bytes <= :inline
LEFT JOIN LATERAL (
  SELECT left('[' || string_agg(f.text, ',' ORDER BY f.map_index), :preview) AS preview FROM (
    SELECT i.map_index, CASE WHEN i.state = 'success'
      THEN coalesce(io.preview, left(CAST(io.value AS text), :preview), 'null') ELSE 'null' END AS text
    FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
      AND io.map_index = i.map_index AND io.run_id = :id
    WHERE i.run_id = :id AND i.node_no = vn.node_no AND i.map_index >= 0
    ORDER BY i.map_index LIMIT :preview / 2
  ) AS f
) AS p ON b.bytes > :inline
LEFT JOIN LATERAL (
  SELECT json_agg(json_build_object('seq', c.parent_seq, 'id', c.id, 'state', c.state) ORDER BY c.parent_seq) AS sub_runs
  FROM run c WHERE c.parent_run_id = :id AND c.parent_node_no = vn.node_no AND c.parent_map_index = nr.map_index
) AS s ON vn.type = 'workflow'
WHERE r.id = :id
ORDER BY vn.node_no, nr.map_index
"""
_ALL_NODES = text(
    _NODE_RUNS.format(
        source="""run r JOIN version_node vn ON vn.version_id = r.version_id
LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = vn.node_no AND nr.run_id = :id"""
    )
)
_SOME_NODES = text(
    _NODE_RUNS.format(
        source="""run r CROSS JOIN unnest(CAST(:nos AS int[]), CAST(:indexes AS int[])) AS k(no, map_index)
JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = k.no
LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = k.no AND nr.map_index = k.map_index AND nr.run_id = :id"""
    )
)
#: Node runs by number and index.
NodeKeys = list[tuple[int, int]]


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
    connection: Connection, run_id: uuid.UUID, keys: NodeKeys | None = None, *, place: Place | None = None
) -> list[dict[str, Any]]:
    """Node runs of a run in the order of its workflow: those of the keys, those that a place holds, or all."""
    parameters: dict[str, Any] = {"id": run_id, "inline": INLINE_MAX, "preview": PREVIEW}
    if keys is None:
        rows = connection.execute(_ALL_NODES, parameters)
    else:
        chosen = {"nos": ints(number for number, _ in keys), "indexes": ints(index for _, index in keys)}
        rows = connection.execute(_SOME_NODES, parameters | chosen)
    return [_node_document(row, run_id) for row in rows if place is None or place.holds(row)]

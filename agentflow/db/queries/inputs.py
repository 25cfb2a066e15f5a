"""What templates read: run, params, upstream outputs and states, variables."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection

from agentflow.clock import iso
from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.statement import Statement

_RUNS = Statement("SELECT id, params, logical_date, triggered_by FROM run WHERE id = ANY(CAST(:ids AS uuid[]))")
#: `q` numbers the asking node; a value is sent only while the inputs of that node together stay under the cap.
_UPSTREAMS = Statement(f"""
SELECT k.q, k.node_no, nr.state, o.bytes,
  CASE WHEN sum(coalesce(o.bytes, 0)) OVER (PARTITION BY k.q) <= :cap THEN o.value END AS value,
  sum(coalesce(o.bytes, 0)) OVER (PARTITION BY k.q) > :cap AS too_large
FROM unnest(CAST(:qs AS int[]), CAST(:runs AS uuid[]), CAST(:nos AS int[])) AS k(q, run_id, node_no)
JOIN node_run nr ON nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = {NOT_MAPPED}
LEFT JOIN output o ON o.run_id = k.run_id AND o.node_no = k.node_no AND o.map_index = {NOT_MAPPED}
  AND o.run_id = ANY(CAST(:all_runs AS uuid[])) AND nr.state = 'success'
WHERE nr.run_id = ANY(CAST(:all_runs AS uuid[]))
""")
_VARIABLES = Statement("""
SELECT name, value FROM variable
WHERE workspace_id = :workspace AND (:every OR name = ANY(CAST(:names AS text[])))
""")


def run_contexts(connection: Connection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """`params` and `run` of each run: they never change."""
    return {
        row.id: {
            "params": row.params,
            "run": {"id": str(row.id), "logical_date": iso(row.logical_date), "triggered_by": row.triggered_by},
        }
        for row in _RUNS.run(connection, {"ids": uuids(ids)})
    }


#: Position of the asking node, its run, the upstream's number.
Wanted = tuple[int, uuid.UUID, int]


def upstream_values(
    connection: Connection, wanted: Sequence[Wanted], *, cap: int
) -> tuple[dict[tuple[int, int], dict[str, Any]], set[int]]:
    """`{output, state}` per (position, node number); and the positions whose inputs are over `cap` bytes together."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    too_large: set[int] = set()
    rows = _UPSTREAMS.run(
        connection,
        {
            "qs": ints(q for q, _, _ in wanted),
            "runs": uuids(run for _, run, _ in wanted),
            "nos": ints(no for _, _, no in wanted),
            "all_runs": uuids({run for _, run, _ in wanted}),
            "cap": cap,
        },
    )
    for row in rows:
        found[row.q, row.node_no] = {"output": row.value, "state": row.state}
        if row.too_large:
            too_large.add(row.q)
    return found, too_large


def variables(connection: Connection, workspace: int, names: Collection[str], *, every: bool) -> dict[str, Any]:
    """Values of the named variables that exist, or of all."""
    rows = _VARIABLES.run(connection, {"workspace": workspace, "names": sorted(names), "every": every})
    return {row.name: row.value for row in rows}

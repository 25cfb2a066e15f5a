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
from agentflow.states import NodeRunState

_RUNS = Statement("SELECT id, params, logical_date, triggered_by FROM run WHERE id = ANY(CAST(:ids AS uuid[]))")
#: `q` numbers the asking node; a value is sent only while the inputs of that node together stay under the cap.
_UPSTREAMS = Statement(f"""
SELECT k.q, k.run_id, k.node_no, nr.state, o.bytes,
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
    connection: Connection, wanted: Sequence[Wanted], *, mapped: Collection[tuple[uuid.UUID, int]] = (), cap: int
) -> tuple[dict[tuple[int, int], dict[str, Any]], set[int]]:
    """`{output, state}` per (position, node number); and the positions whose inputs are over `cap` bytes together.

    `mapped`: which upstreams are mapped nodes, as (run, node number); theirs is the list of their indexes' outputs.
    """
    lists = {key: _mapped_list(connection, *key, cap=cap) for key in sorted(mapped)}
    sizes: dict[int, int] = {}
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
        value, size = row.value, row.bytes or 0
        if row.state == NodeRunState.SUCCESS and (row.run_id, row.node_no) in lists:
            value, size = lists[row.run_id, row.node_no]
        found[row.q, row.node_no] = {"output": value, "state": row.state}
        sizes[row.q] = sizes.get(row.q, 0) + size
        if row.too_large or sizes[row.q] > cap:
            too_large.add(row.q)
    return found, too_large


_MAPPED = Statement(f"""
WITH i AS MATERIALIZED (
  SELECT i.map_index, o.value, o.bytes FROM node_run i
  LEFT JOIN output o ON o.run_id = i.run_id AND o.node_no = i.node_no AND o.map_index = i.map_index
    AND i.state = 'success' AND o.run_id = :run
  WHERE i.run_id = :run AND i.node_no = :node AND i.map_index > {NOT_MAPPED}
), size AS (SELECT coalesce(sum(coalesce(bytes, 4) + 1), 0)::bigint + 2 AS bytes FROM i)
SELECT size.bytes, CASE WHEN size.bytes <= :cap THEN (
  SELECT CAST('[' || coalesce(string_agg(coalesce(CAST(value AS text), 'null'), ',' ORDER BY map_index), '') || ']'
    AS json) FROM i) END AS value
FROM size
""")


def _mapped_list(connection: Connection, run_id: uuid.UUID, node_no: int, *, cap: int) -> tuple[Any, int]:
    """Outputs of a mapped node in index order, null where an index did not succeed; and their bytes."""
    (row,) = _MAPPED.run(connection, {"run": run_id, "node": node_no, "cap": cap})
    return row.value, row.bytes


def variables(connection: Connection, workspace: int, names: Collection[str], *, every: bool) -> dict[str, Any]:
    """Values of the named variables that exist, or of all."""
    rows = _VARIABLES.run(connection, {"workspace": workspace, "names": sorted(names), "every": every})
    return {row.name: row.value for row in rows}

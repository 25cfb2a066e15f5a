"""What templates read: run, params, upstream outputs and states, variables."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from agentflow.clock import iso
from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.outputs import INLINE_MAX, FoundOutput
from agentflow.db.statement import Statement
from agentflow.states import NodeRunState

INLINE_INPUTS = 8 * 2**20  #: Bytes of small outputs that are sent within one workload.

_RUNS = Statement(
    "SELECT id, params, logical_date, triggered_by, request_id FROM run WHERE id = ANY(CAST(:ids AS uuid[]))"
)
#: By key, one after the other: see `attempts`.
#: `q` numbers the asking node; a value is sent only if it is small, and while all of that node's are together.
_UPSTREAMS = Statement(f"""
SELECT k.q, k.run_id, k.node_no, nr.state, nr.finished_at, o.bytes, o.ref,
  CASE WHEN o.bytes <= {INLINE_MAX} AND sum(o.bytes) OVER (PARTITION BY k.q) <= {INLINE_INPUTS} THEN o.value END AS value,
  o.ref IS NOT NULL OR o.bytes > {INLINE_MAX} OR sum(o.bytes) OVER (PARTITION BY k.q) > {INLINE_INPUTS} AS large
FROM unnest(CAST(:qs AS int[]), CAST(:runs AS uuid[]), CAST(:nos AS int[])) AS k(q, run_id, node_no)
CROSS JOIN LATERAL (
  SELECT state, finished_at FROM node_run WHERE run_id = k.run_id AND node_no = k.node_no AND map_index = {NOT_MAPPED}
    AND run_id = ANY(CAST(:all_runs AS uuid[])) OFFSET 0
) AS nr
LEFT JOIN LATERAL (
  SELECT value, bytes, ref FROM output WHERE run_id = k.run_id AND node_no = k.node_no AND map_index = {NOT_MAPPED}
    AND run_id = ANY(CAST(:all_runs AS uuid[])) OFFSET 0
) AS o ON nr.state = 'success'
""")
_VARIABLES = Statement("""
SELECT name, value FROM variable
WHERE workspace_id = :workspace AND (:every OR name = ANY(CAST(:names AS text[])))
""")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What attempts of a run need of it; it never changes."""

    names: dict[str, Any]  #: For templates: `params` and `run`.
    request_id: str | None


def run_contexts(connection: Connection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, RunContext]:
    """What attempts of these runs need of them."""
    return {
        row.id: RunContext(
            {
                "params": row.params,
                "run": {"id": str(row.id), "logical_date": iso(row.logical_date), "triggered_by": row.triggered_by},
            },
            row.request_id,
        )
        for row in _RUNS.run(connection, {"ids": uuids(ids)})
    }


#: Position of the asking node, its run, the upstream's number.
Wanted = tuple[int, uuid.UUID, int]


@dataclass(slots=True)
class Upstreams:
    """What asking nodes read of their upstreams."""

    values: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """`{output, state}` per (position, node number)."""
    large: dict[tuple[int, int], FoundOutput] = field(default_factory=dict)  #: Outputs that are to be fetched.
    too_large: set[int] = field(default_factory=set)  #: Positions whose inputs are over the cap together.


def upstream_values(
    connection: Connection, wanted: Sequence[Wanted], *, mapped: Collection[tuple[uuid.UUID, int]] = (), cap: int
) -> Upstreams:
    """Outputs and states of upstreams; `cap`: how many bytes one asking node may read.

    `mapped`: which upstreams are mapped nodes, as (run, node number); theirs is the list of their indexes' outputs.
    """
    lists = {key: _mapped_list(connection, *key) for key in sorted(mapped)}
    sizes: dict[int, int] = {}
    found = Upstreams()
    rows = _UPSTREAMS.run(
        connection,
        {
            "qs": ints(q for q, _, _ in wanted),
            "runs": uuids(run for _, run, _ in wanted),
            "nos": ints(no for _, _, no in wanted),
            "all_runs": uuids({run for _, run, _ in wanted}),
        },
    )
    for row in rows:
        value, size, large = row.value, row.bytes or 0, bool(row.large)
        is_list = (row.run_id, row.node_no) in lists
        if row.state == NodeRunState.SUCCESS and is_list:
            value, size, large = lists[row.run_id, row.node_no]
        found.values[row.q, row.node_no] = {"output": value, "state": row.state}
        if large:
            found.large[row.q, row.node_no] = FoundOutput(
                row.run_id, row.node_no, NOT_MAPPED, is_list, size, row.finished_at, row.ref
            )
        sizes[row.q] = sizes.get(row.q, 0) + size
        if sizes[row.q] > cap:
            found.too_large.add(row.q)
    return found


_MAPPED = Statement(f"""
WITH size AS (
  SELECT coalesce(sum(CASE WHEN i.state = 'success' THEN coalesce(o.bytes, 4) ELSE 4 END + 1), 0)::bigint + 2 AS bytes
  FROM node_run i LEFT JOIN output o ON o.run_id = i.run_id AND o.node_no = i.node_no AND o.map_index = i.map_index
    AND o.run_id = :run
  WHERE i.run_id = :run AND i.node_no = :node AND i.map_index > {NOT_MAPPED}
)
SELECT size.bytes, CASE WHEN size.bytes <= {INLINE_MAX} THEN (
  SELECT CAST('[' || coalesce(string_agg(coalesce(CAST(o.value AS text), 'null'), ',' ORDER BY i.map_index), '') || ']'
    AS json)
  FROM node_run i LEFT JOIN output o ON o.run_id = i.run_id AND o.node_no = i.node_no AND o.map_index = i.map_index
    AND i.state = 'success' AND o.run_id = :run
  WHERE i.run_id = :run AND i.node_no = :node AND i.map_index > {NOT_MAPPED}) END AS value
FROM size
""")


def _mapped_list(connection: Connection, run_id: uuid.UUID, node_no: int) -> tuple[Any, int, bool]:
    """Outputs of a mapped node in index order, null where an index did not succeed; their bytes; if it is to be fetched."""
    (row,) = _MAPPED.run(connection, {"run": run_id, "node": node_no})
    return row.value, row.bytes, row.bytes > INLINE_MAX


def variables(connection: Connection, workspace: int, names: Collection[str], *, every: bool) -> dict[str, Any]:
    """Values of the named variables that exist, or of all."""
    rows = _VARIABLES.run(connection, {"workspace": workspace, "names": sorted(names), "every": every})
    return {row.name: row.value for row in rows}

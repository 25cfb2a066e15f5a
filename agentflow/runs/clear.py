"""Clearing: nodes of a run go back to pending and run again on the same version (SEMANTICS section 10)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.db.arrays import ints
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import LockedRun, database_now, lock_runs
from agentflow.db.queries.recount import recount_run
from agentflow.db.queries.settle import Settlement
from agentflow.errors import Conflict, NotFound
from agentflow.runs.ids import parse_run_id
from agentflow.states import NODE_RUN_SLOTTED, NodeRunState, RunState

_NODES = text("""
SELECT vn.node_no, vn.node_id, nr.state FROM node_run nr
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = :run AND nr.map_index = -1 ORDER BY nr.node_no FOR NO KEY UPDATE OF nr
""")
_DOWNSTREAM = text("""
WITH RECURSIVE d AS (
  SELECT unnest(CAST(:nodes AS int[])) AS node_no
  UNION SELECT e.down_no FROM d JOIN version_edge e ON e.version_id = :version AND e.up_no = d.node_no
)
SELECT node_no FROM d
""")
_RESET = text("""
WITH gone AS (DELETE FROM output WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[])))
UPDATE node_run SET state = 'pending', finished_at = NULL, started_at = NULL, queued_at = NULL, ready_at = NULL,
  resume_at = NULL, resume_key = NULL, failures = 0, losses = 0, error = NULL
WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[]))
""")
REOPEN = text("""
UPDATE run SET state = 'running', finished_at = NULL, cancel_requested_at = NULL, timed_out = false,
  timeout_at = CASE WHEN v.timeout IS NOT NULL THEN CAST(:now AS timestamptz) + make_interval(secs => v.timeout) END
FROM workflow_version v WHERE run.id = :run AND v.id = run.version_id
""")
_CLEARABLE = {"failed", "upstream_failed", "cancelled"}


def clear_run(
    connection: Connection,
    run_id: str,
    *,
    nodes: Sequence[str] | None = None,
    downstream: bool = False,
    only_failed: bool = False,
    actor: str,
) -> dict[str, Any]:
    """Run nodes again (default: all). An ended run is open again afterwards.

    Returns:
        `{id, changed, cleared: [node ids]}`.

    Raises:
        NotFound: No such run or node.
        Conflict: A selected node has an attempt running, the run is being stopped, or it has not started.
    """
    key = parse_run_id(run_id)
    runs = lock_runs(connection, [key])
    if key not in runs:
        raise NotFound(f"There is no run {run_id}.", hint="`agentflow runs list` shows the newest")
    run = runs[key]
    _refuse_unfit(run, run_id)
    rows = {row.node_no: row for row in connection.execute(_NODES, {"run": key})}
    selected = _select(connection, run, rows, nodes, downstream=downstream)
    if only_failed:
        selected = {no for no in selected if rows[no].state in _CLEARABLE}
    busy = sorted(rows[no].node_id for no in selected if rows[no].state in NODE_RUN_SLOTTED)
    if busy:
        raise Conflict(f"Attempts are running: {', '.join(busy[:10])}.", hint="wait for them, or cancel the run first")
    if not selected:
        return {"id": run_id, "changed": False, "cleared": []}
    _reset(connection, runs, key, selected)
    cleared = [rows[no].node_id for no in sorted(selected)]
    audit(connection, run.workspace_id, actor, "run.cleared", run_id, nodes=cleared[:1000])
    return {"id": run_id, "changed": True, "cleared": cleared}


def _refuse_unfit(run: LockedRun, run_id: str) -> None:
    if run.state is RunState.QUEUED:
        raise Conflict(f"The run {run_id} has not started.", hint="there is nothing to run again yet")
    if run.stopping and not run.is_final:
        raise Conflict(f"The run {run_id} is being stopped.", hint="clear it once it has ended")


def _select(
    connection: Connection, run: LockedRun, rows: dict[int, Any], nodes: Sequence[str] | None, *, downstream: bool
) -> set[int]:
    if nodes is None:
        return set(rows)
    by_id = {row.node_id: no for no, row in rows.items()}
    unknown = [node for node in nodes if node not in by_id]
    if unknown:
        raise NotFound(f"The run has no node {unknown[0]!r}.", hint=f"it has {', '.join(list(by_id)[:10])}")
    selected = {by_id[node] for node in nodes}
    if downstream:
        found = connection.scalars(_DOWNSTREAM, {"nodes": ints(selected), "version": run.version_id})
        selected |= set(found)
    return selected


def _reset(connection: Connection, runs: dict[uuid.UUID, LockedRun], key: uuid.UUID, selected: set[int]) -> None:
    now = database_now(connection)
    connection.execute(_RESET, {"run": key, "nodes": ints(sorted(selected))})
    run = runs[key]
    settlement = Settlement(connection, runs, now)
    if run.is_final:
        connection.execute(REOPEN, {"run": key, "now": now})
        run.state, run.cancel_requested, run.timed_out = RunState.RUNNING, False, False
        settlement.record(Event(key, "run", state=RunState.RUNNING))
    for no in sorted(selected):
        settlement.record(Event(key, "cleared", no, -1, None, NodeRunState.PENDING))
    recount_run(connection, settlement, key)
    settlement.write(wake=True)

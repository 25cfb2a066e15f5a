"""Cancelling: what waits is dropped at once, what runs is stopped by its scheduler."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.db.arrays import ints, uuids
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import LockedRun, database_now, lock_runs
from agentflow.db.queries.recount import recount_open, recount_upstreams
from agentflow.db.queries.settle import Settlement
from agentflow.runs.ids import find_run, no_run
from agentflow.states import RunState

_MARK_CANCELLED = text("UPDATE run SET cancel_requested_at = :now WHERE id = ANY(CAST(:ids AS uuid[]))")
_MARK_TIMED_OUT = text("UPDATE run SET timed_out = true WHERE id = ANY(CAST(:ids AS uuid[]))")
#: Locked in key order by a statement of its own: joined with the update, two copies of a fresh run, of which the
#: planner's statistics know nothing, are compared row by row.
_LOCK_WAITING = text("""
SELECT count(*) FROM (
  SELECT FROM node_run
  WHERE run_id = ANY(CAST(:ids AS uuid[])) AND state IN ('pending', 'ready', 'retrying', 'deferred')
  ORDER BY run_id, node_no, map_index FOR NO KEY UPDATE
) AS waiting
""")
#: Their history is written here too, numbered after what the run's has so far: a line for each of 100,000 node runs
#: would go to the caller and back.
_DROP_WAITING = text("""
WITH dropped AS (
  UPDATE node_run SET state = 'cancelled', finished_at = :now, resume_at = NULL, resume_key = NULL
  WHERE run_id = ANY(CAST(:ids AS uuid[])) AND state IN ('pending', 'ready', 'retrying', 'deferred')
  RETURNING run_id, node_no, map_index
), numbered AS (
  SELECT d.*, row_number() OVER (PARTITION BY d.run_id ORDER BY d.node_no, d.map_index) AS n FROM dropped d
), history AS (
  INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, state)
  SELECT n.run_id, r.seq + n.n, :now, 'node', n.node_no, n.map_index, 'cancelled'
  FROM numbered n JOIN unnest(CAST(:ids AS uuid[]), CAST(:seqs AS bigint[])) AS r(id, seq) ON r.id = n.run_id
)
SELECT run_id, count(*) AS lines FROM numbered GROUP BY run_id
""")


#: An attempt that waits without a slot is nobody's: it ends with its node run.
_DROP_DEFERRED = text("""
UPDATE attempt SET state = 'cancelled', finished_at = :now
WHERE run_id = ANY(CAST(:ids AS uuid[])) AND state = 'deferred'
""")
_CHILDREN = text("""
SELECT id FROM run
WHERE parent_run_id = ANY(CAST(:ids AS uuid[])) AND parent_run_id IS NOT NULL AND state IN ('queued', 'running')
  AND cancel_requested_at IS NULL
""")


_OPEN = text("""
SELECT r.id FROM run r JOIN workflow w ON w.id = r.workflow_id JOIN workspace s ON s.id = w.workspace_id
WHERE s.name = :workspace AND w.name = :workflow AND w.source <> 'adhoc' AND r.state = ANY(CAST(:states AS text[]))
  AND r.state IN ('queued', 'running')
ORDER BY r.id
""")


def open_runs(connection: Connection, workflow: str, states: Sequence[RunState], *, workspace: str) -> list[str]:
    """Ids of a workflow's runs in these states (queued, running), the oldest first.

    Raises:
        NotFound: There is no such workflow.
    """
    find_workflow(connection, workflow, workspace=workspace)
    parameters = {"workflow": workflow, "workspace": workspace, "states": [state.value for state in states]}
    return [str(run_id) for run_id in connection.scalars(_OPEN, parameters)]


def cancel_run(
    connection: Connection, run_id: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Request that a run stops; `changed` is false when it has ended or is being cancelled already.

    Raises:
        NotFound: No such run.
    """
    key = find_run(connection, run_id, workspace=workspace)
    runs = lock_runs(connection, [key])
    if key not in runs:
        raise no_run(run_id)
    run = runs[key]
    if run.is_final or run.cancel_requested:
        return {"id": run_id, "changed": False}
    stop_runs(connection, [run], timed_out=False)
    audit(connection, run.workspace_id, actor, "run.cancelled", run_id)
    return {"id": run_id, "changed": True}


def stop_runs(connection: Connection, runs: Sequence[LockedRun], *, timed_out: bool) -> list[uuid.UUID]:
    """Stop locked, unfinished runs and their sub-runs: nothing of them starts any more.

    Returns:
        Those of `runs` that ended at once.
    """
    now = database_now(connection)
    ids = uuids(run.id for run in runs)
    connection.execute(_MARK_TIMED_OUT if timed_out else _MARK_CANCELLED, {"ids": ids, "now": now})
    settlement = Settlement(connection, {run.id: run for run in runs}, now)
    connection.execute(_LOCK_WAITING, {"ids": ids})
    seqs = ints(run.event_seq for run in runs)
    for row in connection.execute(_DROP_WAITING, {"ids": ids, "seqs": seqs, "now": now}):
        settlement.runs[row.run_id].event_seq += row.lines
    connection.execute(_DROP_DEFERRED, {"ids": ids, "now": now})
    recount_upstreams(connection, [run.id for run in runs])
    recount_open(connection, runs)
    for run in runs:
        run.timed_out = run.timed_out or timed_out
        run.cancel_requested = run.cancel_requested or not timed_out
        word = "timed_out" if timed_out else "cancel_requested"
        settlement.record(Event(run.id, word))
        if run.state is RunState.QUEUED:
            run.state = RunState.CANCELLED
            settlement.end(run)
    settlement.write(wake=True)
    # Made after their parents, so their ids, and with that the order of locks, come after.
    children = lock_runs(connection, set(connection.scalars(_CHILDREN, {"ids": ids})))
    unfinished = [run for run in children.values() if not run.is_final]
    if unfinished:
        stop_runs(connection, unfinished, timed_out=False)
    return settlement.ended

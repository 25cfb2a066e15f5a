"""Starting runs: queued -> running, and their node runs made from the version's graph (ENGINE 9)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection

from agentflow.db.arrays import uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.settle import Settlement
from agentflow.db.statement import Statement
from agentflow.states import RunState

BATCH = 200  #: Runs started in one transaction.
SMALL_BATCH = 20  #: Runs that the loop itself starts in one transaction.

#: Roots are ready in the same statement; a root with a `when` is due for the evaluator instead. A reserved run
#: (`run FILE`) gets the dispatch groups of its reservation, so that no other scheduler's claim sees it; one of a backfill
#: those that share slots with all others.
_CREATE_NODES = Statement(f"""
WITH r AS (
  SELECT run.id, run.version_id, run.reserved_for, run.backfill_id IS NOT NULL AS backfill FROM run WHERE run.id = ANY(CAST(:ids AS uuid[]))
)
INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up, ready_at,
  resume_at)
SELECT r.id, vn.node_no, {NOT_MAPPED}, r.version_id, coalesce(mine.id, vn.group_id),
  CASE WHEN root.yes AND NOT vn.gated THEN 'ready' ELSE 'pending' END, vn.priority, vn.pool_slots, vn.n_up,
  CASE WHEN root.yes AND NOT vn.gated THEN CAST(:now AS timestamptz) END,
  CASE WHEN root.yes AND vn.gated THEN CAST(:now AS timestamptz) END
FROM r JOIN version_node vn ON vn.version_id = r.version_id
CROSS JOIN LATERAL (SELECT vn.n_up = 0 OR (vn.trigger_rule = 'always' AND NOT vn.below_branch) AS yes) AS root
LEFT JOIN dispatch_group g ON g.id = vn.group_id AND (r.reserved_for IS NOT NULL OR r.backfill)
LEFT JOIN dispatch_group mine ON mine.workflow_id = g.workflow_id AND mine.pool_id = g.pool_id
  AND mine.executor = g.executor AND mine.queue = g.queue AND mine.io = g.io AND mine.backfill = r.backfill
  AND mine.reserved_for IS NOT DISTINCT FROM r.reserved_for
""")

_MARK_RUNNING = Statement("""
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
UPDATE run SET state = 'running', started_at = t.now,
  timeout_at = CASE WHEN v.timeout IS NOT NULL THEN t.now + make_interval(secs => v.timeout) END,
  total_nodes = c.nodes
FROM t, workflow_version v,
LATERAL (SELECT count(*)::int AS nodes FROM version_node vn WHERE vn.version_id = v.id) AS c
WHERE run.id = ANY(CAST(:ids AS uuid[])) AND v.id = run.version_id
RETURNING run.id, run.total_nodes, run.started_at
""")


def start_locked(connection: Connection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Start these runs if they are still queued; returns those that were started."""
    runs = {run_id: run for run_id, run in lock_runs(connection, ids).items() if run.state is RunState.QUEUED}
    if not runs:
        return []
    found = uuids(runs)
    marked = _MARK_RUNNING.run(connection, {"ids": found})
    now = marked[0].started_at
    settlement = Settlement(connection, runs, now)
    for row in marked:
        runs[row.id].open_nodes = row.total_nodes
        runs[row.id].state = RunState.RUNNING
        settlement.record(Event(row.id, "run", state=RunState.RUNNING))
    _CREATE_NODES.run(connection, {"ids": found, "now": now})
    settlement.write(wake=True)
    return list(runs)


#: With `depends_on_past` a run with a logical date starts when the one before it, made by a clock, has ended well. Of
#: several of one date the newest counts.
PAST_ENDED_WELL = """
(NOT w.depends_on_past OR run.logical_date IS NULL OR coalesce((
  SELECT p.state = 'success' FROM run p
  WHERE p.workflow_id = w.id AND p.logical_date < run.logical_date
    AND p.triggered_by IN ('cron', 'interval', 'calendar', 'date', 'backfill')
    AND p.parent_run_id IS NULL
  ORDER BY p.logical_date DESC, p.id DESC LIMIT 1), true))
"""
#: A backfill has a limit of its own, and does not start while it or its workflow is paused. Only those that have a run
#: to start are taken: of many that wait for a date before, a batch would never come to the others.
_LOCK_BACKFILLS = Statement(f"""
SELECT b.id FROM backfill b JOIN workflow w ON w.id = b.workflow_id
WHERE b.state = 'running' AND NOT w.paused AND EXISTS (
  SELECT 1 FROM run
  WHERE run.backfill_id = b.id AND run.state = 'queued' AND run.parent_run_id IS NULL AND {PAST_ENDED_WELL})
  AND b.max_active_runs > (
    SELECT count(*) FROM run r WHERE r.backfill_id = b.id AND r.state = 'running' AND r.parent_run_id IS NULL)
ORDER BY b.id LIMIT :batch FOR NO KEY UPDATE OF b SKIP LOCKED
""")
_NEXT_OF_BACKFILLS = Statement(f"""
SELECT r.id FROM backfill b JOIN workflow w ON w.id = b.workflow_id, LATERAL (
  SELECT run.id FROM run
  WHERE run.backfill_id = b.id AND run.state = 'queued' AND run.parent_run_id IS NULL AND {PAST_ENDED_WELL}
  ORDER BY CASE WHEN b.reverse THEN -extract(epoch FROM run.logical_date) ELSE extract(epoch FROM run.logical_date) END, run.id
  LIMIT greatest(0, b.max_active_runs - (
    SELECT count(*) FROM run r WHERE r.backfill_id = b.id AND r.state = 'running' AND r.parent_run_id IS NULL))
) AS r
WHERE b.id = ANY(CAST(:ids AS uuid[])) LIMIT :batch
""")


def start_backfilled(connection: Connection) -> list[uuid.UUID]:
    """Start queued runs of backfills as far as their own limits allow, in the order of their dates."""
    backfills = _LOCK_BACKFILLS.run(connection, {"batch": BATCH})
    if not backfills:
        return []
    found = _NEXT_OF_BACKFILLS.run(connection, {"ids": uuids(row.id for row in backfills), "batch": BATCH})
    return start_locked(connection, [row.id for row in found])


#: Sub-runs are started by who made them, whatever pauses and limits say: their parents hold theirs already, and a
#: workflow that runs itself would wait for itself. These were left over by a crash.
_LEFT_OVER = Statement("""
SELECT id FROM run WHERE state = 'queued' AND parent_run_id IS NOT NULL AND reserved_for IS NULL
  AND created_at < clock_timestamp() - interval '5 seconds' LIMIT :batch
""")


def start_left_over(connection: Connection) -> list[uuid.UUID]:
    """Start sub-runs whose scheduler died between making and starting them."""
    return start_locked(connection, [row.id for row in _LEFT_OVER.run(connection, {"batch": SMALL_BATCH})])

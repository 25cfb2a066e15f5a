"""Which queued runs start: as far as pauses and the workflows' limits allow, the oldest date of each workflow first.

As with claims (`claims`), a loose index scan finds the workflows that have any queued, however many others there are, and
there is a bound: where thousands wait at their limits, one look sees a window of them, and looks go round.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection

from agentflow.db.arrays import ONE_BY_ONE, ints
from agentflow.db.queries.starts import BATCH, PAST_ENDED_WELL, SMALL_BATCH, start_locked
from agentflow.db.statement import Statement

WINDOW = 256  #: Workflows that one look sees.
SMALL = 500  #: Nodes from which on a run is started by the starter's thread, so that it does not hold up the loop.

_QUEUED = "state = 'queued' AND reserved_for IS NULL AND parent_run_id IS NULL AND backfill_id IS NULL"
_RUNNING = """
SELECT count(*) FROM run r
WHERE r.workflow_id = w.id AND r.state = 'running' AND r.parent_run_id IS NULL AND r.backfill_id IS NULL
"""
#: Those that may start a run are locked in id order.
_LOCK = """
WITH RECURSIVE q(id, n) AS (
  {source}
), l AS MATERIALIZED (
  SELECT w.id FROM (SELECT id FROM q WHERE id IS NOT NULL ORDER BY id {one_by_one}) AS k JOIN workflow w ON w.id = k.id
  WHERE NOT w.paused AND w.max_active_runs > ({running}) AND (NOT w.depends_on_past OR EXISTS (
    SELECT 1 FROM run WHERE run.workflow_id = w.id AND {queued} AND {past}))
  ORDER BY w.id LIMIT :batch FOR NO KEY UPDATE OF w {wait}
)
SELECT ARRAY(SELECT id FROM l ORDER BY id) AS ids, max(id) AS last, count(id) AS seen FROM q
"""
_WINDOW = f"""
  (SELECT workflow_id, 1 FROM run WHERE {_QUEUED} AND workflow_id > :after ORDER BY workflow_id LIMIT 1)
  UNION ALL
  SELECT (SELECT run.workflow_id FROM run WHERE {_QUEUED} AND run.workflow_id > q.id ORDER BY run.workflow_id LIMIT 1), q.n + 1
  FROM q WHERE q.id IS NOT NULL AND q.n < :window"""
_THESE = "SELECT id, 1 FROM unnest(CAST(:ids AS bigint[])) AS k(id)"


def _locking(source: str, wait: str) -> Statement:
    parts = {"running": _RUNNING, "queued": _QUEUED, "past": PAST_ENDED_WELL}
    return Statement(_LOCK.format(source=source, wait=wait, one_by_one=ONE_BY_ONE, **parts))


_LOCK_WINDOW = _locking(_WINDOW, "")
#: The loop waits for nobody: whoever starts a large run has its workflow locked for seconds.
_LOCK_WINDOW_NOW = _locking(_WINDOW, "SKIP LOCKED")
_LOCK_THESE_NOW = _locking(_THESE, "SKIP LOCKED")
#: Counted after the locks are held: another scheduler may have started some meanwhile.
_NEXT = Statement(f"""
SELECT r.id, w.id AS workflow_id,
  EXISTS (SELECT 1 FROM version_node vn WHERE vn.version_id = r.version_id AND vn.node_no = :large) AS large
FROM workflow w, LATERAL (
  SELECT run.id, run.version_id FROM run WHERE run.workflow_id = w.id AND {_QUEUED} AND {PAST_ENDED_WELL}
  ORDER BY coalesce(run.logical_date, run.created_at), run.id LIMIT greatest(0, w.max_active_runs - ({_RUNNING}))
) AS r
WHERE w.id = ANY(CAST(:ids AS bigint[])) LIMIT :batch
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one look at the workflows with queued runs did."""

    started: list[uuid.UUID] = field(default_factory=list)
    end: int | None = None  #: The last workflow that was looked at, when there may be more behind it.


def start_waiting(connection: Connection, *, after: int = 0) -> Waiting:
    """Start queued runs of a window of workflows, a batch at most.

    Args:
        connection: In a transaction that has locked nothing.
        after: Begin behind this workflow.
    """
    return _look(connection, _LOCK_WINDOW, after, BATCH)


def start_small(connection: Connection, ended: Collection[int], *, after: int = 0) -> Waiting:
    """Start small queued runs: of these workflows, whose runs have ended, and of a window of all that have any.

    Workflows that somebody else has locked are left alone, and so are those whose next runs include one of SMALL nodes
    or more.
    """
    started = []
    if ended:
        row = _LOCK_THESE_NOW.run(connection, {"ids": ints(ended), "batch": SMALL_BATCH})[0]
        started = _start(connection, row.ids, SMALL_BATCH, small_only=True)
    found = _look(connection, _LOCK_WINDOW_NOW, after, SMALL_BATCH, small_only=True)
    return Waiting(started + found.started, found.end)


def _look(connection: Connection, statement: Statement, after: int, batch: int, *, small_only: bool = False) -> Waiting:
    row = statement.run(connection, {"after": after, "window": WINDOW, "batch": batch})[0]
    started = _start(connection, row.ids, batch, small_only=small_only)
    if len(row.ids) == batch:
        return Waiting(started, row.ids[-1])
    return Waiting(started, row.last if row.seen == WINDOW else None)


def _start(connection: Connection, workflows: list[int], batch: int, *, small_only: bool) -> list[uuid.UUID]:
    if not workflows:
        return []
    found = _NEXT.run(connection, {"ids": ints(workflows), "batch": batch, "large": SMALL})
    left_alone = {row.workflow_id for row in found if row.large} if small_only else set()
    return start_locked(connection, [row.id for row in found if row.workflow_id not in left_alone])

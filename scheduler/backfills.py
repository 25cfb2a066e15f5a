"""Makes the runs of backfills, a few at a time: never more of one are open than its limit (docs/backfill.md).

What is to be done follows from the rows alone, so it does not matter who looks, when, or how often: any scheduler, when
a run ends, a backfill is made or unpaused, and every few seconds. The row's lock keeps two from making the same date.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, text

from agentflow.backfills import DateRun, newest_runs, runs_again
from agentflow.catalog.audit import audit
from agentflow.db.arrays import times, uuids, words
from agentflow.db.queries.locks import database_now
from agentflow.errors import AgentFlowError
from agentflow.ids import uuid7
from agentflow.runs.create import NewRun, announce_runs, insert_runs
from agentflow.states import BackfillState, Reprocess, RunState, TriggeredBy
from agentflow.triggers import build, fires_between

log = logging.getLogger(__name__)

RUNS_MAX = 200  #: Runs made in one transaction.
DATES_MAX = 500  #: Dates looked at in one transaction; those that have a run cost little.

#: Those that may make a run, or have come to their end.
_DUE = text("""
SELECT b.id FROM backfill b CROSS JOIN LATERAL (
  SELECT count(*) AS open FROM run r
  WHERE r.backfill_id = b.id AND r.state IN ('queued', 'running') AND r.parent_run_id IS NULL) AS c
WHERE b.state = 'running' AND CASE WHEN b.exhausted THEN c.open = 0 ELSE c.open < b.max_active_runs END
""")
_LOCK = text("""
SELECT b.* FROM backfill b JOIN workflow w ON w.id = b.workflow_id
WHERE b.id = ANY(CAST(:ids AS uuid[])) AND b.state = 'running'
ORDER BY b.id FOR NO KEY UPDATE OF b SKIP LOCKED FOR KEY SHARE OF w SKIP LOCKED
""")
#: A statement of its own: its snapshot begins after the lock is held.
_COUNT = text("""
SELECT count(*) FROM run WHERE backfill_id = :id AND state = ANY(CAST(:states AS text[])) AND parent_run_id IS NULL
""")
#: The trigger's own fire of this date, if it is due this very moment, then finds that the date is taken.
_TAKE = text("""
INSERT INTO fire (trigger_id, logical_date, run_id, outcome)
SELECT :trigger, d.date, NULL, 'backfill' FROM unnest(CAST(:dates AS timestamptz[])) AS d(date)
WHERE EXISTS (SELECT FROM trigger WHERE id = :trigger)
ON CONFLICT DO NOTHING
""")
_TOOK = text("""
UPDATE fire f SET run_id = k.run_id
FROM unnest(CAST(:dates AS timestamptz[]), CAST(:runs AS uuid[])) AS k(date, run_id)
WHERE f.trigger_id = :trigger AND f.logical_date = k.date AND f.outcome = 'backfill' AND f.run_id IS NULL
""")
_MOVE = text("""
UPDATE backfill SET made = made + :made, skipped = skipped + :skipped, reached = :reached, exhausted = :exhausted
WHERE id = :id
""")
_FINISH = text("UPDATE backfill SET state = :state, finished_at = clock_timestamp() WHERE id = :id")


@dataclass(slots=True)
class Step:
    """What is done about some dates of a backfill."""

    run: list[datetime] = field(default_factory=list)
    skipped: int = 0
    reached: datetime | None = None
    exhausted: bool = False


def advance_backfills(connection: Connection) -> bool:
    """Make the runs that may be made now, end what has come to its end; whether anything was done."""
    due = list(connection.scalars(_DUE))
    if not due:
        return False
    moved = [_advance(connection, row) for row in connection.execute(_LOCK, {"ids": uuids(due)}).all()]
    return any(moved)


def _advance(connection: Connection, row: Any) -> bool:
    still_open = _count(connection, row, RunState.QUEUED, RunState.RUNNING)
    if row.exhausted:
        if still_open == 0:
            _finish(connection, row)
        return still_open == 0
    room = min(row.max_active_runs - still_open, RUNS_MAX)
    if room <= 0:
        return False
    try:
        step = _decide(connection, row, room)
    except AgentFlowError as error:
        # A zone that is not known here, say: another scheduler may know it.
        log.error("backfill_unusable", extra={"backfill": str(row.id), "error": str(error)})
        return False
    _make(connection, row, step)
    return True


def _count(connection: Connection, row: Any, *states: RunState) -> int:
    return connection.scalar(_COUNT, {"id": row.id, "states": words(state.value for state in states)}) or 0


def _decide(connection: Connection, row: Any, room: int) -> Step:
    """Look at the next dates until `room` runs are found."""
    reprocess = Reprocess(row.reprocess)
    trigger = build(row.trigger_config)
    fires = fires_between(trigger, row.first_date, row.last_date, reverse=row.reverse, reached=row.reached)
    dates = list(islice(fires, DATES_MAX))
    step = choose_dates(dates, newest_runs(connection, row.workflow_id, dates), reprocess, room, more=DATES_MAX)
    if step.run:
        connection.execute(_TAKE, {"trigger": row.trigger_id, "dates": times(step.run)})
        # The trigger itself may have been at it: its runs are seen now, and counted as those that were there.
        found = newest_runs(connection, row.workflow_id, step.run)
        kept = [date for date in step.run if not runs_again(found.get(date), reprocess)]
        step.run = [date for date in step.run if date not in kept]
        step.skipped += len(kept)
    step.reached = step.reached or row.reached
    return step


def choose_dates(
    dates: Sequence[datetime], found: Mapping[datetime, DateRun], reprocess: Reprocess, room: int, *, more: int
) -> Step:
    """What to do about the next dates; with fewer than `more` of them there are no others. Pure."""
    step = Step()
    for date in dates:
        again = runs_again(found.get(date), reprocess)
        if again and len(step.run) == room:
            return step
        step.reached = date
        if again:
            step.run.append(date)
        else:
            step.skipped += 1
    step.exhausted = len(dates) < more
    return step


def _make(connection: Connection, row: Any, step: Step) -> None:
    now = database_now(connection)
    made = [
        NewRun(
            uuid7(now),
            workspace=row.workspace_id,
            workflow=row.workflow_id,
            version=row.version_id,
            params=row.params,
            triggered_by=TriggeredBy.BACKFILL,
            actor=row.created_by,
            trigger=row.trigger_id,
            logical_date=date,
            backfill=row.id,
        )
        for date in step.run
    ]
    if made:
        insert_runs(connection, made, now)
        announce_runs(connection, made)
        runs = {"runs": uuids(run.id for run in made), "dates": times(run.logical_date for run in made)}
        connection.execute(_TOOK, {"trigger": row.trigger_id} | runs)
    moved = {"made": len(made), "skipped": step.skipped, "reached": step.reached, "exhausted": step.exhausted}
    connection.execute(_MOVE, {"id": row.id} | moved)


def _finish(connection: Connection, row: Any) -> None:
    failed = _count(connection, row, RunState.FAILED, RunState.CANCELLED)
    state = BackfillState.FAILED if failed else BackfillState.SUCCESS
    connection.execute(_FINISH, {"id": row.id, "state": state.value})
    audit(connection, row.workspace_id, "system", "backfill.finished", str(row.id), state=state.value)
    log.info("backfill_finished", extra={"backfill": str(row.id), "state": state.value})

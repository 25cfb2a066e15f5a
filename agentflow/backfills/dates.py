"""Which dates a backfill runs: those without a run, and of the others what it was told to run again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from agentflow.db.arrays import times
from agentflow.states import RUN_FINAL, Reprocess, RunState

_AT = text("""
SELECT DISTINCT ON (r.logical_date) r.logical_date, r.id, r.state
FROM unnest(CAST(:dates AS timestamptz[])) AS d(date) JOIN run r ON r.workflow_id = :workflow AND r.logical_date = d.date
WHERE r.parent_run_id IS NULL AND NOT r.hidden
ORDER BY r.logical_date, r.id DESC
""")
_WITHIN = text("""
SELECT DISTINCT ON (r.logical_date) r.logical_date, r.id, r.state FROM run r
WHERE r.workflow_id = :workflow AND r.logical_date BETWEEN :first AND :last AND r.parent_run_id IS NULL AND NOT r.hidden
ORDER BY r.logical_date, r.id DESC
""")


@dataclass(frozen=True, slots=True)
class DateRun:
    """The newest run of a workflow for a date, whoever started it."""

    id: uuid.UUID
    state: RunState


def runs_again(run: DateRun | None, reprocess: Reprocess) -> bool:
    """Whether a date gets a run, given the one it has. One that is under way is left alone, whatever was asked."""
    if run is None:
        return True
    if run.state not in RUN_FINAL or reprocess is Reprocess.NONE:
        return False
    return reprocess is Reprocess.ALL or run.state is not RunState.SUCCESS


def newest_runs(connection: Connection, workflow: int, dates: Sequence[datetime]) -> dict[datetime, DateRun]:
    """The newest run of each of these dates that has one."""
    rows = connection.execute(_AT, {"workflow": workflow, "dates": times(dates)})
    return {row.logical_date.astimezone(UTC): DateRun(row.id, RunState(row.state)) for row in rows}


def newest_runs_between(
    connection: Connection, workflow: int, first: datetime, last: datetime
) -> dict[datetime, DateRun]:
    """The newest run of each date of a range, both ends included."""
    rows = connection.execute(_WITHIN, {"workflow": workflow, "first": first, "last": last})
    return {row.logical_date.astimezone(UTC): DateRun(row.id, RunState(row.state)) for row in rows}

"""Fires triggers: due rows are taken with SKIP LOCKED, so each fire happens once however many schedulers run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, text

from agentflow.db.arrays import ints, times, uuids
from agentflow.db.engine import transact
from agentflow.db.notify import notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.errors import AgentFlowError
from agentflow.ids import uuid7
from agentflow.runs.create import QUEUE_MAX, NewRun, announce_runs, insert_runs
from agentflow.spec import check_params
from agentflow.states import TriggeredBy
from agentflow.triggers import FirePlan, TriggerRow, plan_fires
from scheduler.metrics import FIRES
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

POLL = 5.0  # seconds
HELD_AGAIN = 0.5  # seconds
BATCH = 250  #: Triggers of one transaction.
RUNS_MAX = 250  #: Runs made in one transaction; a long catch-up goes on in the next.

_DUE = text("""
SELECT t.id, t.type, t.config, t.paused OR w.paused OR w.missing AS paused, t.next_fire_at, t.workflow_id,
  w.workspace_id, w.name, w.published_version_id AS version_id, v.spec -> 'params' AS params,
  (SELECT max(f.logical_date) FROM fire f WHERE f.trigger_id = t.id AND f.outcome <> 'backfill')
    AS last_logical,
  (SELECT count(*) FROM run r WHERE r.workflow_id = w.id AND r.state = 'queued' AND r.backfill_id IS NULL) AS queued
FROM trigger t JOIN workflow w ON w.id = t.workflow_id JOIN workflow_version v ON v.id = w.published_version_id
WHERE t.active AND t.next_fire_at <= :now AND NOT (t.id = ANY(CAST(:passed AS bigint[])))
  AND (t.id, w.published_version_id) NOT IN (
    SELECT * FROM unnest(CAST(:unusable AS bigint[]), CAST(:unusable_versions AS bigint[])))
ORDER BY t.next_fire_at, t.id LIMIT :limit FOR NO KEY UPDATE OF t SKIP LOCKED FOR KEY SHARE OF w SKIP LOCKED
""")
_ADVANCE = text("""
UPDATE trigger t SET next_fire_at = k.next FROM unnest(CAST(:ids AS bigint[]), CAST(:nexts AS timestamptz[])) AS k(id, next)
WHERE t.id = k.id
""")
#: What fired before (the clock jumped back, the trigger was applied again, a backfill took the date) is left out.
_FIRE = text("""
INSERT INTO fire (trigger_id, logical_date, run_id, outcome)
SELECT k.trigger, k.date, k.run, CASE WHEN k.run IS NULL THEN 'skipped' ELSE 'run' END
FROM unnest(CAST(:triggers AS bigint[]), CAST(:dates AS timestamptz[]), CAST(:runs AS uuid[])) AS k(trigger, date, run)
ON CONFLICT DO NOTHING RETURNING run_id
""")
_NEXT = text("""
SELECT t.next_fire_at FROM trigger t JOIN workflow w ON w.id = t.workflow_id
WHERE t.active AND t.next_fire_at IS NOT NULL AND (t.id, w.published_version_id) NOT IN (
    SELECT * FROM unnest(CAST(:unusable AS bigint[]), CAST(:unusable_versions AS bigint[]))) ORDER BY t.next_fire_at LIMIT 1
""")


@dataclass(slots=True)
class _Batch:
    """What one transaction does."""

    runs: list[NewRun] = field(default_factory=list)
    queued: dict[int, int] = field(default_factory=dict)  #: Runs among these, by workflow.
    skipped: list[tuple[int, datetime]] = field(default_factory=list)  #: Triggers and dates.
    next_fires: dict[int, datetime | None] = field(default_factory=dict)  #: By trigger.
    progressed: bool = False
    passed: set[int] = field(default_factory=set)  #: Triggers that stay due.

    def add(self, run: NewRun) -> None:
        self.runs.append(run)
        self.queued[run.workflow] = self.queued.get(run.workflow, 0) + 1


class Fires(WorkerThread):
    """Turns due triggers into queued runs."""

    name = "fires"

    def __init__(
        self, engine: Engine, on_created: Callable[[], None], now: Callable[[Connection], datetime] = database_now
    ) -> None:
        super().__init__()
        self._engine = engine
        self._on_created = on_created
        self._now = now
        self._unusable: dict[int, int] = {}  # trigger -> version with which this process cannot fire it

    def work(self) -> float:
        """Fire everything that is due; the seconds until the next fire."""
        passed: set[int] = set()  # held or unusable: they stay due, and must not keep others from their turn
        while not self.stopping:
            batch = transact(self._engine, partial(self._fire_due, passed=passed))
            FIRES.inc(len(batch.runs))
            if batch.progressed:
                self._on_created()
            elif not batch.passed:
                break
            passed |= batch.passed
        with self._engine.begin() as connection:
            following = connection.scalar(_NEXT, self._without_unusable())
            if following is None:
                return POLL
            wait = (following - self._now(connection)).total_seconds()
            # A held catch-up stays due, and another scheduler may hold a row: look again soon, without spinning.
            return min(POLL, wait if wait > 0 else HELD_AGAIN)

    def _fire_due(self, connection: Connection, passed: AbstractSet[int]) -> _Batch:
        now = self._now(connection)
        parameters = {"now": now, "limit": BATCH, "passed": ints(passed)} | self._without_unusable()
        batch = _Batch()
        for row in connection.execute(_DUE, parameters).all():
            if len(batch.runs) >= RUNS_MAX:
                break
            if self._plan(row, now, batch):
                batch.progressed = True
            else:
                batch.passed.add(row.id)
        _write(connection, batch, now)
        if batch.progressed:
            notify_ready(connection)
        return batch

    def _without_unusable(self) -> dict[str, Any]:
        return {"unusable": ints(self._unusable), "unusable_versions": ints(self._unusable.values())}

    def _plan(self, row: Any, now: datetime, batch: _Batch) -> bool:
        """Decide about one trigger; whether that is progress (a held catch-up is none)."""
        room = max(0, QUEUE_MAX - row.queued - batch.queued.get(row.workflow_id, 0))
        try:
            plan = plan_fires(_trigger_row(row), now, limit=RUNS_MAX - len(batch.runs), room=room)
            params = check_params(row.params or {}, row.config.get("params", {}))
        except AgentFlowError as error:
            # Another scheduler, with newer time zone data say, may be able to: it stays due, but not for this one.
            log.error("trigger_unusable", extra={"workflow": row.name, "trigger": row.id, "error": str(error)})
            self._unusable[row.id] = row.version_id
            return False
        for date in plan.fires:
            batch.add(
                NewRun(
                    uuid7(now),
                    workspace=row.workspace_id,
                    workflow=row.workflow_id,
                    version=row.version_id,
                    params=params,
                    triggered_by=TriggeredBy(row.type),
                    actor="system",
                    trigger=row.id,
                    logical_date=date,
                )
            )
        if plan.skipped is not None:
            batch.skipped.append((row.id, plan.skipped))
            log.warning("fire_skipped", extra={"workflow": row.name, "logical_date": plan.skipped.isoformat()})
        batch.next_fires[row.id] = plan.next_fire_at
        return _progressed(plan, row.next_fire_at)


def _write(connection: Connection, batch: _Batch, now: datetime) -> None:
    """Three statements, however many triggers are due: ten thousand in one minute are no reason to be late."""
    if batch.runs or batch.skipped:
        parameters = {
            "triggers": ints([*(run.trigger for run in batch.runs), *(trigger for trigger, _ in batch.skipped)]),
            "dates": times([*(run.logical_date for run in batch.runs), *(date for _, date in batch.skipped)]),
            "runs": uuids([*(run.id for run in batch.runs), *(None for _ in batch.skipped)]),
        }
        fired = set(connection.scalars(_FIRE, parameters))
        batch.runs = [run for run in batch.runs if run.id in fired]
        insert_runs(connection, batch.runs, now)
        announce_runs(connection, batch.runs)
    if batch.next_fires:
        moved = {"ids": ints(batch.next_fires), "nexts": times(batch.next_fires.values())}
        connection.execute(_ADVANCE, moved)


def _trigger_row(row: Any) -> TriggerRow:
    return TriggerRow(
        id=str(row.id),
        config=row.config,
        next_fire_at=row.next_fire_at,
        last_logical=row.last_logical,
        catchup=bool(row.config.get("catchup", False)),
        paused=row.paused,
    )


def _progressed(plan: FirePlan, before: datetime) -> bool:
    return bool(plan.fires) or plan.next_fire_at != before

"""Fires triggers: due rows are taken with SKIP LOCKED, so each fire happens once however many schedulers run."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, text

from agentflow.db.arrays import ints
from agentflow.db.engine import transact
from agentflow.db.notify import notify_live, notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.errors import AgentFlowError
from agentflow.runs.create import insert_run
from agentflow.spec import check_params
from agentflow.states import TriggeredBy
from agentflow.triggers import FirePlan, TriggerRow, plan_fires
from scheduler.metrics import FIRES
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

POLL = 5.0  # seconds
HELD_AGAIN = 0.5  # seconds
BATCH = 100  #: Triggers of one transaction.
QUEUE_MAX = 100  #: Queued runs of a workflow above which its triggers create no more (SEMANTICS section 1).
RUNS_MAX = 200  #: Runs made in one transaction; a long catch-up goes on in the next.

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
_ADVANCE = text("UPDATE trigger SET next_fire_at = :next WHERE id = :id")
_FIRE = text("""
INSERT INTO fire (trigger_id, logical_date, run_id, outcome) VALUES (:trigger, :date, :run, :outcome)
ON CONFLICT DO NOTHING
""")
_NEXT = text("""
SELECT t.next_fire_at FROM trigger t JOIN workflow w ON w.id = t.workflow_id
WHERE t.active AND t.next_fire_at IS NOT NULL AND (t.id, w.published_version_id) NOT IN (
    SELECT * FROM unnest(CAST(:unusable AS bigint[]), CAST(:unusable_versions AS bigint[]))) ORDER BY t.next_fire_at LIMIT 1
""")


@dataclass(slots=True)
class _Batch:
    """What one transaction did."""

    runs: int = 0
    queued: dict[int, int] = field(default_factory=dict)  #: Runs made, by workflow.
    progressed: bool = False
    passed: set[int] = field(default_factory=set)  #: Triggers that stay due.
    made: dict[int, dict[uuid.UUID, int]] = field(default_factory=dict)  #: Positions of new runs, by workspace.

    def created(self, workspace: int, workflow: int, run: uuid.UUID) -> None:
        self.runs += 1
        self.queued[workflow] = self.queued.get(workflow, 0) + 1
        self.made.setdefault(workspace, {})[run] = 0


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
            FIRES.inc(batch.runs)
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
            if batch.runs >= RUNS_MAX:
                break
            if self._fire(connection, row, now, batch):
                batch.progressed = True
            else:
                batch.passed.add(row.id)
        if batch.progressed:
            notify_ready(connection)
        for workspace, runs in batch.made.items():
            notify_live(connection, workspace, runs)
        return batch

    def _without_unusable(self) -> dict[str, Any]:
        return {"unusable": ints(self._unusable), "unusable_versions": ints(self._unusable.values())}

    def _fire(self, connection: Connection, row: Any, now: datetime, batch: _Batch) -> bool:
        """Fire one trigger; whether that made progress (a held catch-up does not)."""
        room = max(0, QUEUE_MAX - row.queued - batch.queued.get(row.workflow_id, 0))
        try:
            plan = plan_fires(_trigger_row(row), now, limit=RUNS_MAX - batch.runs, room=room)
            params = check_params(row.params or {}, row.config.get("params", {}))
        except AgentFlowError as error:
            # Another scheduler, with newer time zone data say, may be able to: it stays due, but not for this one.
            log.error("trigger_unusable", extra={"workflow": row.name, "trigger": row.id, "error": str(error)})
            self._unusable[row.id] = row.version_id
            return False
        for date in plan.fires:
            made = self._start(connection, row, date, params, now)
            if made is not None:
                batch.created(row.workspace_id, row.workflow_id, made)
        if plan.skipped is not None:
            connection.execute(_FIRE, {"trigger": row.id, "date": plan.skipped, "run": None, "outcome": "skipped"})
            log.warning("fire_skipped", extra={"workflow": row.name, "logical_date": plan.skipped.isoformat()})
        connection.execute(_ADVANCE, {"id": row.id, "next": plan.next_fire_at})
        return _progressed(plan, row.next_fire_at)

    def _start(
        self, connection: Connection, row: Any, date: datetime, params: dict[str, Any], now: datetime
    ) -> uuid.UUID | None:
        fired = connection.execute(_FIRE, {"trigger": row.id, "date": date, "run": None, "outcome": "run"})
        if fired.rowcount == 0:
            return None  # it fired before: the clock jumped back, or the trigger was applied again
        run_id = insert_run(
            connection,
            workspace=row.workspace_id,
            workflow=row.workflow_id,
            version=row.version_id,
            params=params,
            triggered_by=TriggeredBy(row.type),
            now=now,
            actor="system",
            trigger=row.id,
            logical_date=date,
        )
        connection.execute(
            text("UPDATE fire SET run_id = :run WHERE trigger_id = :trigger AND logical_date = :date"),
            {"run": run_id, "trigger": row.id, "date": date},
        )
        return run_id


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

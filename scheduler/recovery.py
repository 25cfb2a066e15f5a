"""Recovery: schedulers that stopped beating are declared dead and their attempts written off as lost."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from functools import partial

from sqlalchemy import Engine

from agentflow.db.engine import transact
from agentflow.db.notify import notify_ready
from agentflow.db.queries import schedulers
from agentflow.db.queries.attempts import open_attempts
from agentflow.db.queries.claims import oldest_open_run
from agentflow.states import SCHEDULER_DEAD
from scheduler.apply import Loss, apply_events
from scheduler.identity import Identity
from scheduler.service import BACKOFF_MAX, WorkerThread

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds; with SCHEDULER_DEAD, a loss is noticed within 10 s
#: Seconds after an outage in which nobody is declared dead: services come back within BACKOFF_MAX of the database.
PATIENCE = 2 * BACKOFF_MAX
BATCH = 500  #: Attempts written off in one transaction.


class Recovery(WorkerThread):
    """Notices dead schedulers. Every scheduler runs one; row locks keep them from doing the same work."""

    name = "recovery"

    def __init__(self, engine: Engine, identity: Identity, on_recovered: Callable[[], None]) -> None:
        super().__init__()
        self._engine = engine
        self._identity = identity
        self._on_recovered = on_recovered
        self._judge_from = 0.0  # time.monotonic() before which nobody is declared dead

    def work(self) -> float:
        """One look. After an outage the others get time to beat again: they could not, and are not dead for that."""
        try:
            self._look(judge=time.monotonic() >= self._judge_from)
        except Exception:
            self._judge_from = time.monotonic() + PATIENCE
            raise
        return EVERY

    def _look(self, *, judge: bool) -> None:
        dead: list[uuid.UUID] = []
        if judge:
            with self._engine.begin() as connection:
                dead = schedulers.mark_dead(connection, me=self._identity.id, after=SCHEDULER_DEAD)
        for scheduler in dead:
            log.warning("scheduler_dead", extra={"scheduler": str(scheduler)})
        with self._engine.begin() as connection:
            oldest = oldest_open_run(connection)
            gone = schedulers.gone_with_attempts(connection, oldest)
            reserved = schedulers.gone_with_reservations(connection)
        for scheduler in gone:
            self.write_off(scheduler, oldest, "its scheduler is gone")
        if reserved:
            transact(self._engine, partial(schedulers.release_reservations, owners=reserved))
            with self._engine.begin() as connection:
                notify_ready(connection)
        if gone or reserved:
            self._on_recovered()

    def write_off(self, owner: uuid.UUID, oldest: uuid.UUID, reason: str) -> int:
        """Record every open attempt of a scheduler as lost; how many."""
        with self._engine.begin() as connection:
            keys = list(open_attempts(connection, owner, oldest))
        for start in range(0, len(keys), BATCH):
            losses = [Loss(key, owner, reason) for key in keys[start : start + BATCH]]
            transact(self._engine, partial(apply_events, events=[], losses=losses))
        if keys:
            log.warning("attempts_lost", extra={"scheduler": str(owner), "count": len(keys), "reason": reason})
        return len(keys)

"""Who this scheduler is: its row, its heartbeat, and what to do when others have declared it dead (ENGINE 6)."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable

from sqlalchemy import Connection, Engine, text

from agentflow.ids import uuid7
from agentflow.settings import Settings
from agentflow.states import SCHEDULER_DEAD
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

BEAT_EVERY = 2.0  # seconds
#: Attempts may start until this long after the last acknowledged beat: less than SCHEDULER_DEAD, so that nobody else can
#: have taken them over by then.
LEASE = SCHEDULER_DEAD - 2.0

_REGISTER = text("""
INSERT INTO scheduler (id, hostname, pid, state, executors, queues, parallelism)
VALUES (:id, :hostname, :pid, 'alive', CAST(:executors AS text[]), CAST(:queues AS text[]), :parallelism)
""")
_BEAT = text("UPDATE scheduler SET beat_at = clock_timestamp() WHERE id = :id AND state IN ('alive', 'stopping')")
_LEAVE = text("UPDATE scheduler SET state = :state, beat_at = clock_timestamp() WHERE id = :id AND state <> 'dead'")


class Identity:
    """The scheduler's id, shared by its services."""

    def __init__(self, *, reserved_only: bool = False) -> None:
        self.id: uuid.UUID = uuid7()
        self.reserved_only = reserved_only  #: `run FILE`: claims only what is reserved for it.
        self._lock = threading.Lock()
        self._lease_until = 0.0
        self._dead = threading.Event()

    @property
    def may_claim(self) -> bool:
        """Whether the last heartbeat is recent enough to take more."""
        return not self._dead.is_set() and time.monotonic() < self._lease_until

    def lease(self) -> float:
        """`time.monotonic()` until which attempts may start."""
        return 0.0 if self._dead.is_set() else self._lease_until

    @property
    def beat_age(self) -> float:
        """Seconds since the last acknowledged beat."""
        return time.monotonic() - (self._lease_until - LEASE)

    def beaten(self, who: uuid.UUID, sent_at: float) -> None:
        """A heartbeat of `who` that was sent at this `time.monotonic()` was acknowledged."""
        with self._lock:
            if who == self.id:
                self._lease_until = sent_at + LEASE

    def declared_dead(self, who: uuid.UUID) -> None:
        """Others have taken over from `who`: nothing more starts under that id."""
        with self._lock:
            if who == self.id:
                self._dead.set()

    @property
    def is_dead(self) -> bool:
        """Whether others have taken over."""
        return self._dead.is_set()

    def renew(self) -> None:
        """Take a new id after a death; it lives from `revive` on, once it is registered."""
        with self._lock:
            self.id = uuid7()
            self._lease_until = 0.0

    def revive(self) -> None:
        """The new id is registered and its executors are started."""
        self._dead.clear()


def register(connection: Connection, identity: Identity, settings: Settings) -> None:
    """Write the scheduler's row."""
    sent_at = time.monotonic()
    connection.execute(
        _REGISTER,
        {
            "id": identity.id,
            "hostname": settings.hostname,
            "pid": os.getpid(),
            "executors": settings.enabled_executors,
            "queues": [] if identity.reserved_only else settings.served_queues,
            "parallelism": settings.parallelism,
        },
    )
    identity.beaten(identity.id, sent_at)


def leave(connection: Connection, identity: Identity, state: str) -> None:
    """Say that this scheduler is stopping, or has stopped."""
    connection.execute(_LEAVE, {"id": identity.id, "state": state})


class Heartbeat(WorkerThread):
    """Beats every BEAT_EVERY seconds; calls `on_death` when the row says that others have taken over."""

    name = "heartbeat"

    def __init__(self, engine: Engine, identity: Identity, on_death: Callable[[], None]) -> None:
        super().__init__()
        self._engine = engine
        self._identity = identity
        self._on_death = on_death

    def work(self) -> float:
        """One beat."""
        if self._identity.is_dead:
            return BEAT_EVERY  # between two lives
        sent_at, me = time.monotonic(), self._identity.id
        with self._engine.begin() as connection:
            alive = connection.execute(_BEAT, {"id": me}).rowcount == 1
        if alive:
            self._identity.beaten(me, sent_at)
        else:
            log.error("declared_dead", extra={"scheduler": str(me)})
            self._identity.declared_dead(me)
            self._on_death()
        return BEAT_EVERY

"""The supervisor's loop: children that die and a database that dies are started again, until somebody says stop."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence

from agentflow.supervisor.children import Child
from agentflow.supervisor.signals import StopSignals
from agentflow.supervisor.watch import DatabaseWatch

READY_POLL = 0.1  # seconds, until the system is ready for the first time
IDLE = 60.0  # seconds; deaths and signals wake the loop by themselves


class Supervisor:
    """Owns the children; the database belongs to the caller."""

    def __init__(
        self,
        signals: StopSignals,
        watch: DatabaseWatch,
        children: Sequence[Child],
        *,
        ready: Callable[[], bool],
        on_ready: Callable[[], None],
        grace: float,
    ) -> None:
        """
        Args:
            signals: Ask for the end.
            watch: Tells of the database's death.
            children: To be kept alive.
            ready: Asked until it says yes.
            on_ready: Called then, once.
            grace: Seconds for children to end after SIGTERM.
        """
        self._signals = signals
        self._watch = watch
        self._children = children
        self._ready = ready
        self._on_ready = on_ready
        self._grace = grace
        self._announced = False

    def run(self) -> None:
        """Keep everything going until a stop is requested; children that run already are taken over."""
        self._watch.open()
        for child in self._children:
            if child.pid is None:
                child.start()
        while True:
            self._wait()
            if self._signals.requested:
                return
            self._tend_database()
            for child in self._children:
                child.tend(time.monotonic())
            self._announce()

    def stop(self) -> None:
        """End the children: politely, then not."""
        self._watch.close()
        deadline = time.monotonic() + self._grace
        for child in self._children:
            child.terminate()
        for child in self._children:
            if not child.wait(deadline - time.monotonic()):
                child.kill()

    def _wait(self) -> None:
        """Sleep until a signal, a death, or the next thing that is due."""
        descriptors = [self._signals.fileno()]
        database = self._watch.fileno()
        if database is not None:
            descriptors.append(database)
        due = [self._watch.due, *(child.due for child in self._children)]
        waits = [moment - time.monotonic() for moment in due if moment is not None]
        timeout = min([*waits, IDLE if self._announced else READY_POLL])
        select.select(descriptors, [], [], max(timeout, 0))
        self._signals.drain()

    def _tend_database(self) -> None:
        now = time.monotonic()
        retry = self._watch.due is not None and now >= self._watch.due
        if not retry and not self._heard_the_end():
            return
        with self._signals.interruptible():
            moved = self._watch.recover(now)
        if moved:
            for child in self._children:  # they know the old address; their death brings them back with the new one
                child.terminate()

    def _heard_the_end(self) -> bool:
        database = self._watch.fileno()
        return database is not None and bool(select.select([database], [], [], 0)[0]) and self._watch.lost()

    def _announce(self) -> None:
        if not self._announced and self._ready():
            self._announced = True
            self._on_ready()

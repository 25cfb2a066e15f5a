"""LISTEN on a connection of its own: wakes the services when another process has committed something (ENGINE 7)."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from agentflow.db.notify import READY
from agentflow.postgres import libpq_url
from scheduler.service import BACKOFF_FIRST, BACKOFF_MAX

log = logging.getLogger(__name__)

KEEPALIVE = 30  #: Seconds of silence after which the system asks whether the server is still there.
QUIET = 0.05  #: Seconds without a notification after which the less urgent services are woken.


class Notifier:
    """Calls back for each notification, and once after every (re)connect: what was missed meanwhile must be read."""

    def __init__(
        self,
        url: str,
        urgent: Sequence[Callable[[], None]],
        later: Sequence[Callable[[], None]] = (),
        is_own: Callable[[int], bool] = lambda _pid: False,
    ) -> None:
        """
        Args:
            url: The database; a pooler in between must not swallow notifications.
            urgent: Called at once, in this order.
            later: Called when no notification came for QUIET seconds: what may wait must not compete for the processor
                with a run that somebody has just asked for.
            is_own: Whether a backend's process id is the scheduler's own: its echo tells nothing new.
        """
        self._url = libpq_url(url)
        self._urgent = urgent
        self._later = later
        self._is_own = is_own
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake = (-1, -1)  # a pipe: `stop` need not wait for a notification

    def start(self) -> None:
        """Start listening."""
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread is not None:
            os.write(self._wake[1], b"\0")
            self._thread.join()
            self._thread = None
            for end in self._wake:
                os.close(end)

    def _run(self) -> None:
        backoff = BACKOFF_FIRST
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=5,
                    keepalives_idle=KEEPALIVE,
                    application_name="agentflow-listen",
                ) as connection:
                    connection.execute(f"LISTEN {READY}")
                    backoff = BACKOFF_FIRST
                    _call([*self._urgent, *self._later])
                    self._listen(connection)
            except psycopg.Error as error:
                log.warning("listen_lost", extra={"error": str(error).strip().splitlines()[0] if str(error) else ""})
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, BACKOFF_MAX)

    def _listen(self, connection: psycopg.Connection) -> None:
        poll = select.poll()
        for descriptor in (connection.fileno(), self._wake[0]):
            poll.register(descriptor, select.POLLIN)
        later_at: float | None = None  # time.monotonic() at which `later` is due
        while not self._stopping.is_set():
            poll.poll(None if later_at is None else max(0.0, later_at - time.monotonic()) * 1000)
            if any(not self._is_own(note.pid) for note in connection.notifies(timeout=0)):
                later_at = time.monotonic() + QUIET
                _call(self._urgent)
            elif later_at is not None and time.monotonic() >= later_at:
                later_at = None
                _call(self._later)


def _call(callbacks: Sequence[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()

"""LISTEN on a connection of its own: wakes the services when another process has committed something (ENGINE 7)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import psycopg

from agentflow.db.notify import READY
from agentflow.postgres import libpq_url
from scheduler.service import BACKOFF_FIRST, BACKOFF_MAX

log = logging.getLogger(__name__)

CHECK = 1.0  #: Seconds between looks whether to stop.


class Notifier:
    """Calls back for each notification, and once after every (re)connect: what was missed meanwhile must be read."""

    def __init__(
        self, url: str, callbacks: Sequence[Callable[[], None]], is_own: Callable[[int], bool] = lambda _pid: False
    ) -> None:
        """`is_own` tells by a backend's process id whether a notification is the scheduler's own echo."""
        self._url = libpq_url(url)
        self._callbacks = callbacks
        self._is_own = is_own
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection | None = None

    def start(self) -> None:
        """Start listening."""
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        backoff = BACKOFF_FIRST
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    self._url, autocommit=True, connect_timeout=5, application_name="agentflow-listen"
                ) as connection:
                    connection.execute(f"LISTEN {READY}")
                    backoff = BACKOFF_FIRST
                    self._call()
                    self._listen(connection)
            except psycopg.Error as error:
                log.warning("listen_lost", extra={"error": str(error).strip().splitlines()[0] if str(error) else ""})
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, BACKOFF_MAX)

    def _listen(self, connection: psycopg.Connection) -> None:
        while not self._stopping.is_set():
            for note in connection.notifies(timeout=CHECK, stop_after=1):
                if not self._is_own(note.pid):
                    self._call()

    def _call(self) -> None:
        for callback in self._callbacks:
            callback()

"""The contract of a service: start returns at once, stop waits and may be called twice or before start."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from agentflow.db.engine import is_disconnect

log = logging.getLogger(__name__)

BACKOFF_FIRST = 0.1  # seconds
BACKOFF_MAX = 2.0  # seconds


class Service(Protocol):
    """A part of the scheduler with one job."""

    def start(self) -> None:
        """Begin, in threads or processes of its own; returns at once."""

    def stop(self) -> None:
        """End and wait for it."""


class WorkerThread:
    """A service that waits to be woken, then does its job; errors never end it.

    Subclasses give `work`, which does one round and returns the seconds until the next one is due (None: when woken).
    """

    name = "worker"

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._backoff = BACKOFF_FIRST

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the round in progress end, then stop."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def wake(self) -> None:
        """Make it look now."""
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def work(self) -> float | None:
        """Do one round."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                timeout = self.work()
                self._backoff = BACKOFF_FIRST
            except Exception as error:  # noqa: BLE001 - no sick row or lost connection may end a service
                report_failure(log, self.name, error)
                timeout = self._backoff
                self._backoff = min(self._backoff * 2, BACKOFF_MAX)
                self._stopping.wait(timeout)
                continue
            self._wake.wait(timeout)


def first_line(error: BaseException) -> str:
    """What it says in a line; the name of its type when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def report_failure(logger: logging.Logger, name: str, error: Exception) -> None:
    """One line for a database that went away, a traceback for everything else."""
    if is_disconnect(error):
        logger.warning("database_lost", extra={"service": name, "error": first_line(error)})
    else:
        logger.error("service_failed", extra={"service": name}, exc_info=error)

"""Where executors, listener and services leave word for the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agentflow.workload import ExecutorEvent, Finished, LogChunk, Started


class Inbox:
    """A thread-safe box of events with a wake-up. Log chunks pass straight to the log writer."""

    def __init__(self, on_log: Callable[[LogChunk], None]) -> None:
        self._on_log = on_log
        self._condition = threading.Condition()
        self._events: list[Started | Finished] = []
        self._woken = False

    def emit(self, event: ExecutorEvent) -> None:
        """Take an executor's event; from any thread, returns at once."""
        if isinstance(event, LogChunk):
            self._on_log(event)
            return
        with self._condition:
            self._events.append(event)
            if isinstance(event, Finished):  # a start alone is not worth a transaction yet
                self._condition.notify()

    def wake(self) -> None:
        """Make the loop look at the database now."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def wait(self, timeout: float) -> bool:
        """Wait for a finish or a wake-up, at most `timeout` seconds; whether it was a wake-up."""
        with self._condition:
            if not self._woken and not any(isinstance(event, Finished) for event in self._events):
                self._condition.wait(timeout)
            woken, self._woken = self._woken, False
            return woken

    def take(self) -> list[Started | Finished]:
        """All events so far, in order."""
        with self._condition:
            events, self._events = self._events, []
            return events

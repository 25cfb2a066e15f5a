"""Where executors, listener and services leave word for the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agentflow.workload import ExecutorEvent, Finished, LogChunk, Started

HOLD_STARTS = 0.03  #: Seconds a start waits for its finish before it is worth a write of its own.


class Inbox:
    """A thread-safe box of events with a wake-up. Log chunks pass straight to the log writer."""

    def __init__(self, on_log: Callable[[LogChunk], None]) -> None:
        self._on_log = on_log
        self._condition = threading.Condition()
        self._events: list[Started | Finished] = []
        self._woken = False
        self._finished = False  # whether `_events` holds a finish
        self._first_start: float | None = None  # time.monotonic() of the oldest start in `_events`

    def emit(self, event: ExecutorEvent) -> None:
        """Take an executor's event; from any thread, returns at once."""
        if isinstance(event, LogChunk):
            self._on_log(event)
            return
        with self._condition:
            self._events.append(event)
            if isinstance(event, Finished):
                self._finished = True
                self._condition.notify()
            elif self._first_start is None:  # the loop sleeps on, but not longer than the start may be held
                self._first_start = time.monotonic()
                self._condition.notify()

    def wake(self) -> None:
        """Make the loop look at the database now."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    @property
    def holds_ends(self) -> bool:
        """Whether an attempt has ended that nobody has taken yet."""
        return self._finished

    def wait(self, timeout: float) -> bool:
        """Wait for a finish, a wake-up or a start that has been held long enough, at most `timeout` seconds.

        Returns:
            Whether it was a wake-up.
        """
        deadline = time.monotonic() + timeout
        with self._condition:
            while not self._woken and not self._finished:
                until = deadline if self._first_start is None else min(deadline, self._first_start + HOLD_STARTS)
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                self._condition.wait(remaining)
            woken, self._woken = self._woken, False
            return woken

    def take(self) -> list[Started | Finished]:
        """All events so far, in order."""
        with self._condition:
            events, self._events = self._events, []
            self._finished, self._first_start = False, None
            return events

"""Starts queued runs, lets backfills make theirs, and ends those whose time is up. In a thread of its own: a large run must not hold up the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, Engine, text

from agentflow.db.engine import transact
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.queued import start_waiting
from agentflow.db.queries.starts import start_backfilled, start_left_over
from agentflow.runs.cancel import stop_runs
from scheduler.backfills import advance_backfills
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

POLL = 5.0  # seconds
#: A look at thousands of workflows, all at their limits, is followed by a rest so many times as long: when a run ends by
#: itself, the loop starts the next one of its workflow. What others start or end is seen after the rest, about a second.
REST = 2.0

_TIMED_OUT = text("""
SELECT id FROM run WHERE state = 'running' AND timeout_at <= clock_timestamp() AND NOT timed_out
ORDER BY timeout_at LIMIT 100
""")
_NEXT_TIMEOUT = text("""
SELECT extract(epoch FROM min(timeout_at) - clock_timestamp()) FROM run
WHERE state = 'running' AND timeout_at IS NOT NULL AND NOT timed_out
""")


class Starter(WorkerThread):
    """Moves runs from queued to running as far as pauses and limits allow."""

    name = "starter"

    def __init__(self, engine: Engine, on_started: Callable[[], None], *, start_runs: bool = True) -> None:
        """`start_runs` is false in `run FILE`, whose only run is started at once."""
        super().__init__()
        self._engine = engine
        self._on_started = on_started
        self._start_runs = start_runs
        self._rest_until = 0.0  # time.monotonic() before which workflows at their limits are not looked at again

    def work(self) -> float:
        """Start everything that may start; stop what has timed out."""
        while self._start_runs and not self.stopping:
            made = transact(self._engine, advance_backfills)
            started = [run for start in (start_backfilled, start_left_over) for run in transact(self._engine, start)]
            if started:
                self._on_started()
            if not self._start_waiting() and not started and not made:
                break
        rest = self._rest_until - time.monotonic()
        return min(rest if rest > 0 else POLL, self._stop_timed_out())

    def _start_waiting(self) -> bool:
        """Look at all workflows with queued runs; whether any was started."""
        began, after, any_started = time.monotonic(), 0, False
        if began < self._rest_until:
            return False
        while not self.stopping:
            found = transact(self._engine, partial(start_waiting, after=after))
            if found.started:
                any_started = True
                self._on_started()
            if found.end is None:
                break
            after = found.end
        if after and not any_started:
            now = time.monotonic()
            self._rest_until = now + REST * (now - began)
        return any_started

    def _stop_timed_out(self) -> float:
        if transact(self._engine, _stop_late):
            self._on_started()
        with self._engine.begin() as connection:
            seconds = connection.scalar(_NEXT_TIMEOUT)
        return max(0.0, float(seconds)) if seconds is not None else POLL


def _stop_late(connection: Connection) -> bool:
    """Stop runs that are over their time; whether there were some."""
    late = list(connection.scalars(_TIMED_OUT))
    if late:
        runs = [run for run in lock_runs(connection, late).values() if not run.is_final]
        log.warning("runs_timed_out", extra={"runs": [str(run.id) for run in runs]})
        stop_runs(connection, runs, timed_out=True)
    return bool(late)

"""Starts queued runs, lets backfills make theirs, and ends those whose time is up. In a thread of its own: a large run must not hold up the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Engine, text

from agentflow.db.engine import transact
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.starts import start_backfilled, start_left_over, start_waiting
from agentflow.runs.cancel import stop_runs
from scheduler.backfills import advance_backfills
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

POLL = 5.0  # seconds

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

    def work(self) -> float:
        """Start everything that may start; stop what has timed out."""
        while self._start_runs and not self.stopping:
            made = transact(self._engine, advance_backfills)
            started = [
                run
                for start in (start_waiting, start_backfilled, start_left_over)
                for run in transact(self._engine, start)
            ]
            if started:
                self._on_started()
            elif not made:
                break
        return min(POLL, self._stop_timed_out())

    def _stop_timed_out(self) -> float:
        with self._engine.begin() as connection:
            late = list(connection.scalars(_TIMED_OUT))
            if late:
                runs = [run for run in lock_runs(connection, late).values() if not run.is_final]
                log.warning("runs_timed_out", extra={"runs": [str(run.id) for run in runs]})
                stop_runs(connection, runs, timed_out=True)
        if late:
            self._on_started()
        with self._engine.begin() as connection:
            seconds = connection.scalar(_NEXT_TIMEOUT)
        return max(0.0, float(seconds)) if seconds is not None else POLL

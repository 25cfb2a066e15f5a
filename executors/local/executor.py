"""The local executor: a thread-safe front of the I/O thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Final

from agentflow.workload import ExecutorEvent, Workload
from executors.base import AdoptionResult, ExecutorContext
from executors.local.engine import Engine

_STOP_EXTRA: Final = 8.0  # seconds beyond the grace that `stop` waits for dying processes


class LocalExecutor:
    """Runs attempts in warm processes on this machine (see the package's docstring)."""

    def __init__(self, context: ExecutorContext) -> None:
        self._context = context
        self._engine: Engine | None = None
        self._submitted = 0
        self._lock = threading.Lock()

    @property
    def slots_free(self) -> int:
        """Free processes, and a queue of about 40 ms of work per process while attempts are short."""
        engine = self._engine
        if engine is None:
            return 0
        return max(0, engine.capacity - (self._submitted - engine.finished))

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Start the thread and the zygote."""
        self._context.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = Engine(self._context, emit)
        engine.loop.call(engine.start)
        engine.loop.start()
        self._engine = engine

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Take these workloads, in this order."""
        engine = self._running()
        with self._lock:
            self._submitted += len(workloads)
        engine.loop.call(engine.submit, workloads)

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """SIGTERM to the groups of these attempts, SIGKILL after the grace; those not begun end at once."""
        engine = self._running()
        engine.loop.call(engine.cancel, list(attempt_ids))

    def adopt(self, attempts: Sequence[str]) -> AdoptionResult:
        """Local attempts die with their scheduler: all are lost."""
        return AdoptionResult(lost=list(attempts))

    def stop(self, grace: float) -> None:
        """Stop all attempts; those that do not end within `grace` seconds are killed and reported lost."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.loop.call(engine.shutdown, grace)
        engine.loop.join(grace + _STOP_EXTRA)
        shutil.rmtree(self._context.work_dir, ignore_errors=True)

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the executor is not started")
        return self._engine

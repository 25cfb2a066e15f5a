"""An executor of processes on this machine: a thread-safe front of the I/O thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Final

from agentflow.nodes import registry
from agentflow.workload import ExecutorEvent, Workload
from executors.base import AdoptionResult, ExecutorContext
from executors.processes.engine import Engine
from executors.processes.item import Item
from executors.processes.policy import ProcessPolicy

_STOP_EXTRA: Final = 8.0  # seconds beyond the grace that `stop` waits for dying processes


class ProcessExecutor:
    """Runs attempts in processes on this machine, as its policy says (see the package's docstring)."""

    def __init__(self, context: ExecutorContext, policy: ProcessPolicy) -> None:
        self._context = context
        self._policy = policy
        self._engine: Engine | None = None
        self._submitted = 0
        self._submitted_to_lanes = 0
        self._lock = threading.Lock()

    @property
    def slots_free(self) -> int:
        """Free processes; warm ones take a queue of about 40 ms of work besides while attempts are short."""
        engine = self._engine
        if engine is None:
            return 0
        return max(0, engine.capacity - (self._submitted - engine.finished))

    @property
    def io_slots_free(self) -> int | None:
        """Free places in I/O lanes; None: there are no lanes."""
        concurrency, engine = self._policy.io_concurrency, self._engine
        if concurrency == 0:
            return None
        if engine is None:
            return 0
        return max(0, concurrency - (self._submitted_to_lanes - engine.finished_in_lanes))

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Start the thread, and the zygote unless it is to start with the first workload."""
        self._context.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = Engine(self._context, self._policy, emit)
        engine.loop.call(engine.start)
        engine.loop.start()
        self._engine = engine

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Take these workloads, in this order."""
        engine = self._running()
        items = [Item(workload, lane=self._shares_process(workload, engine)) for workload in workloads]
        lanes = sum(item.lane for item in items)
        with self._lock:
            self._submitted += len(items) - lanes
            self._submitted_to_lanes += lanes
        engine.loop.call(engine.submit, items)

    def _shares_process(self, workload: Workload, engine: Engine) -> bool:
        if self._policy.io_concurrency == 0:
            return False
        shares = registry.shares_process(workload.type, memory=workload.limits.memory)
        return shares and engine.may_share(workload.attempt_id)

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """SIGTERM to the groups of these attempts, SIGKILL after the grace; those not begun end at once."""
        engine = self._running()
        engine.loop.call(engine.cancel, list(attempt_ids))

    def drain(self) -> None:
        """Give back what has not begun, and whatever comes from now on."""
        engine = self._running()
        engine.loop.call(engine.drain)

    def adopt(self, attempts: Sequence[str]) -> AdoptionResult:
        """Attempts on this machine die with their scheduler: all are lost."""
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

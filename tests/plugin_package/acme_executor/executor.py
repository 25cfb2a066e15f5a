"""The executor: keeps workloads in a queue of its own and gives them to another executor, one (or a few) at a time."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agentflow.workload import ErrorInfo, ExecutorEvent, Finished, Outcome, Started, Workload
from executors.base import AdoptionResult, ExecutorContext
from executors.subprocess import SubprocessExecutor

WIDTH = 4  #: Attempts at once, however much the scheduler offers.


class QueueExecutor:
    """Implements `executors.base.Executor`; the processes are those of `SubprocessExecutor`."""

    def __init__(self, context: ExecutorContext) -> None:
        self._width = min(WIDTH, context.parallelism)
        self._inner = SubprocessExecutor(replace(context, parallelism=self._width, options={}))
        journal = str(context.options.get("journal", ""))
        self._journal = Path(journal) if journal else None
        self._emit: Callable[[ExecutorEvent], None] = _drop
        self._waiting: deque[Workload] = deque()
        self._running: set[str] = set()  # attempt ids
        self._stopping = False
        self._lock = threading.Lock()

    @property
    def slots_free(self) -> int:
        """Room beside what runs and waits."""
        with self._lock:
            return max(0, self._width - len(self._running) - len(self._waiting))

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Begin to accept work."""
        self._emit = emit
        self._inner.start(self._on_event)

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Queue these workloads."""
        with self._lock:
            self._waiting.extend(workloads)
            self._hand_over()

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """What waits ends at once, what runs is stopped."""
        with self._lock:
            ended = self._take(set(attempt_ids))
        for workload in ended:
            self._end(workload, Outcome.CANCELLED, ErrorInfo(type="Cancelled", message="cancelled by request"))
        self._inner.cancel(attempt_ids)

    def adopt(self, attempts: Sequence[str]) -> AdoptionResult:
        """Nothing outlives the scheduler."""
        return AdoptionResult(lost=list(attempts))

    def stop(self, grace: float) -> None:
        """Stop what runs; what waits is lost, and will run again elsewhere."""
        with self._lock:
            self._stopping = True
            ended = self._take({workload.attempt_id for workload in self._waiting})
        for workload in ended:
            self._end(workload, Outcome.LOST, ErrorInfo(type="Shutdown", message="the executor was stopped"))
        self._inner.stop(grace)

    def _on_event(self, event: ExecutorEvent) -> None:
        """Pass on what the inner executor says (in its thread); an end makes room for the next."""
        if isinstance(event, Started):
            self._note(event.attempt_id, "started")
        if isinstance(event, Finished):
            self._note(event.attempt_id, event.outcome.value)
            with self._lock:
                self._running.discard(event.attempt_id)
                self._hand_over()
        self._emit(event)

    def _hand_over(self) -> None:
        while self._waiting and len(self._running) < self._width and not self._stopping:
            workload = self._waiting.popleft()
            self._running.add(workload.attempt_id)
            self._inner.submit([workload])

    def _take(self, attempt_ids: set[str]) -> list[Workload]:
        taken = [workload for workload in self._waiting if workload.attempt_id in attempt_ids]
        self._waiting = deque(workload for workload in self._waiting if workload.attempt_id not in attempt_ids)
        return taken

    def _end(self, workload: Workload, outcome: Outcome, error: ErrorInfo) -> None:
        self._note(workload.attempt_id, outcome.value)
        now = datetime.now(UTC)
        self._emit(Finished(workload.attempt_id, workload.token, outcome, None, now, error=error))

    def _note(self, attempt_id: str, what: str) -> None:
        if self._journal is not None:
            line = json.dumps({"at": datetime.now(UTC).isoformat(), "attempt": attempt_id, "what": what})
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _drop(event: ExecutorEvent) -> None:
    """Before `start` nobody listens."""

"""A deterministic executor for tests: runs nothing, ends each attempt as its script says.

    stub = StubExecutor(context)
    stub.script("load", fail("boom"), succeed({"rows": 3}))   # first attempt fails, later ones succeed
    stub.hold("slow")                                         # stays running until stub.release("slow")

Without a script a node succeeds with its `config.output`, or null. Everything happens inside the calls, in the
caller's thread, so a test decides the order of all events.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentflow.clock import Clock, utc_now
from agentflow.workload import Deferral, ErrorInfo, ExecutorEvent, Finished, LogChunk, Outcome, Started, Workload
from executors.base import AdoptionResult, ExecutorContext


@dataclass(frozen=True, slots=True)
class Ending:
    """How a scripted attempt ends."""

    outcome: Outcome
    output: Any = None
    error: ErrorInfo | None = None
    log: tuple[str, ...] = ()  #: Lines on stdout.
    starts: bool = True  #: False: it ends without having started.
    deferral: Deferral | None = None


def succeed(output: Any = None, *, log: Sequence[str] = ()) -> Ending:
    """The node returns this."""
    return Ending(Outcome.SUCCESS, output, log=tuple(log))


def fail(message: str = "failed on purpose", *, kind: str = "NodeFailed", log: Sequence[str] = ()) -> Ending:
    """The node fails."""
    return Ending(Outcome.FAILED, error=ErrorInfo(type=kind, message=message), log=tuple(log))


def lose(message: str = "lost on purpose", *, starts: bool = True) -> Ending:
    """The infrastructure loses the attempt."""
    return Ending(Outcome.LOST, error=ErrorInfo(type="Lost", message=message), starts=starts)


def refuse(message: str = "refused on purpose") -> Ending:
    """The executor does not take the workload."""
    return Ending(Outcome.REFUSED, error=ErrorInfo(type="Refused", message=message), starts=False)


def skip() -> Ending:
    """The node asks to be skipped."""
    return Ending(Outcome.SKIPPED)


def defer(after: float, state: Any = None, *, log: Sequence[str] = ()) -> Ending:
    """The node asks to go on later."""
    return Ending(Outcome.DEFERRED, log=tuple(log), deferral=Deferral(after=after, state=state))


class StubExecutor:
    """An `Executor` whose attempts end by script."""

    def __init__(self, context: ExecutorContext, *, clock: Clock = utc_now) -> None:
        self._context = context
        self._clock = clock
        self._emit: Callable[[ExecutorEvent], None] = _drop
        self._scripts: dict[str, deque[Ending]] = defaultdict(deque)
        self._held: set[str] = set()
        self._started_at: dict[str, datetime] = {}
        self._open: dict[str, Workload] = {}
        self.submitted: list[Workload] = []  #: Every workload, in order.
        self.cancelled: list[str] = []  #: Every attempt id given to `cancel`.
        self.stopped = False

    def script(self, node: str, *endings: Ending) -> None:
        """Ends of the next attempts of a node, or of one index (`node[3]`); the last one holds for all later ones."""
        self._scripts[node].extend(endings)

    def hold(self, *nodes: str) -> None:
        """Let attempts of these nodes run until they are released."""
        self._held.update(nodes)

    def release(self, node: str, ending: Ending | None = None) -> None:
        """End the running attempts of a held node; later ones end at once again."""
        self._held.discard(node)
        for workload in [workload for workload in self._open.values() if workload.node == node]:
            self._end(workload, ending or self._next_ending(workload))

    @property
    def running(self) -> list[Workload]:
        """Workloads that have not ended, in order."""
        return list(self._open.values())

    @property
    def slots_free(self) -> int:
        """What is left of the parallelism."""
        return max(0, self._context.parallelism - len(self._open))

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Begin to accept work."""
        self._emit = emit

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Start each; those that are not held end at once."""
        for workload in workloads:
            self.submitted.append(workload)
            self._open[workload.attempt_id] = workload
            if workload.node in self._held:
                self._begin(workload)
            else:
                self._end(workload, self._next_ending(workload))

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """End those that run as cancelled."""
        self.cancelled.extend(attempt_ids)
        error = ErrorInfo(type="Cancelled", message="cancelled by request")
        for attempt_id in attempt_ids:
            if (workload := self._open.get(attempt_id)) is not None:
                self._end(workload, Ending(Outcome.CANCELLED, error=error))

    def adopt(self, attempts: Sequence[str]) -> AdoptionResult:
        """Nothing outlives it."""
        return AdoptionResult(lost=list(attempts))

    def stop(self, grace: float) -> None:
        """Lose what still runs."""
        del grace
        self.stopped = True
        error = ErrorInfo(type="Shutdown", message="the executor was stopped")
        for workload in self.running:
            self._end(workload, Ending(Outcome.LOST, error=error))

    def _next_ending(self, workload: Workload) -> Ending:
        script = self._scripts.get(f"{workload.node}[{workload.map_index}]") or self._scripts.get(workload.node)
        if not script:
            return succeed(workload.config.get("output"))
        return script.popleft() if len(script) > 1 else script[0]

    def _begin(self, workload: Workload) -> None:
        if workload.attempt_id not in self._started_at:
            at = self._started_at[workload.attempt_id] = self._clock()
            self._emit(Started(workload.attempt_id, workload.token, at))

    def _end(self, workload: Workload, ending: Ending) -> None:
        if ending.starts:
            self._begin(workload)
        if ending.log:
            self._emit(self._chunk(workload, ending.log))
        del self._open[workload.attempt_id]
        self._emit(
            Finished(
                workload.attempt_id,
                workload.token,
                ending.outcome,
                self._started_at.pop(workload.attempt_id, None),
                self._clock(),
                json.dumps(ending.output) if ending.outcome is Outcome.SUCCESS else None,
                ending.error,
                deferral=ending.deferral and _with_log(ending.deferral, workload, len(ending.log)),
            )
        )

    def _chunk(self, workload: Workload, lines: Sequence[str]) -> LogChunk:
        at, first, chunk = self._clock().timestamp(), workload.turn.lines + 1, workload.turn.chunks
        rows = [json.dumps([seq, at, "stdout", "info", text]) + "\n" for seq, text in enumerate(lines, first)]
        raw = "".join(rows).encode()
        data = zlib.compress(raw, 1)
        return LogChunk(workload.attempt_id, workload.token, chunk, first, len(rows), data, len(raw))


def _with_log(deferral: Deferral, workload: Workload, lines: int) -> Deferral:
    place = {"chunks": workload.turn.chunks + bool(lines), "lines": workload.turn.lines + lines}
    return deferral.model_copy(update=place)


def _drop(event: ExecutorEvent) -> None:
    """Before `start` nobody listens."""

"""Turns what runners say into the events of the seam, and counts what is out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from agentflow.runner import wire
from agentflow.runner.capture import LineSplitter
from agentflow.runner.logs import Chunk, LogBuffer, read_pending
from agentflow.runner.masking import Masker
from agentflow.workload import Deferral, ErrorInfo, ExecutorEvent, Finished, LogChunk, Outcome, Started
from executors.processes.item import Item, moment
from executors.processes.outcomes import StopReason, stopped

_REST_MAX = 512 * 1024  # bytes of log lines made from what a dead process left in its pipes


class Reporter:
    """Emits; exactly one `Finished` per item."""

    def __init__(self, emit: Callable[[ExecutorEvent], None]) -> None:
        self._emit = emit
        self.items: dict[str, Item] = {}  #: By attempt id: submitted and not finished.
        self.finished = 0  #: How many with a process of their own have ended so far.
        self.finished_in_lanes = 0  #: How many others.

    def started(self, item: Item, body: bytes) -> None:
        """The runner's STARTED message."""
        _, wall, mono = wire.STARTED_BODY.unpack(body)
        item.mark_started(wall, mono)
        at = item.started_at or moment(wall)
        self._emit(Started(item.workload.attempt_id, item.workload.token, at))

    def finished_by_runner(self, item: Item, body: bytes) -> None:
        """The runner's FINISHED message; if we stopped the attempt, that decides, unless it still succeeded in time."""
        _, code, _, started, finished = wire.FINISHED_BODY.unpack_from(body)
        outcome = Outcome(wire.OUTCOMES[code])
        item.started_at = item.started_at or moment(started)
        rest = body[wire.FINISHED_BODY.size :]
        output = rest.decode() if outcome is Outcome.SUCCESS else None
        error = ErrorInfo.model_validate_json(rest) if outcome is Outcome.FAILED and rest else None
        ended_in_time = item.stop is StopReason.SHUTDOWN and outcome is not Outcome.FAILED
        if item.stop is not None and not ended_in_time:
            self.finish_stopped(item, item.stop)
            return
        if outcome is Outcome.DEFERRED:
            self.finish(item, outcome, deferral=Deferral.model_validate_json(rest), at=moment(finished))
            return
        if error is not None and error.type == "Terminated":
            error = ErrorInfo(type="Signal", message="the process was ended by SIGTERM, not by AgentFlow", signal=15)
        self.finish(item, outcome, error, output=output, at=moment(finished))

    def finish_stopped(self, item: Item, reason: StopReason) -> None:
        """The attempt ended because we wanted it to."""
        self.finish(item, *stopped(reason, item.workload.limits.timeout))

    def finish(
        self,
        item: Item,
        outcome: Outcome,
        error: ErrorInfo | None = None,
        *,
        output: str | None = None,
        deferral: Deferral | None = None,
        at: datetime | None = None,
    ) -> None:
        """Emit the end, once."""
        if self.items.pop(item.workload.attempt_id, None) is None:
            return
        if item.lane:
            self.finished_in_lanes += 1
        else:
            self.finished += 1
        self._emit(
            Finished(
                item.workload.attempt_id,
                item.workload.token,
                outcome,
                item.started_at,
                at or datetime.now(UTC),
                output,
                error,
                deferral=deferral and item.with_log(deferral),
            )
        )

    def log_chunk(self, item: Item, chunk: Chunk, stored: Callable[[], None]) -> None:
        """Some lines of the attempt's log."""
        item.next_chunk = chunk.chunk_no + 1
        item.next_line = chunk.first_seq + chunk.lines
        item.log_bytes += chunk.raw_bytes
        self._emit(
            LogChunk(
                item.workload.attempt_id,
                item.workload.token,
                chunk.chunk_no,
                chunk.first_seq,
                chunk.lines,
                chunk.data,
                chunk.raw_bytes,
                chunk.truncated_bytes,
                stored,
            )
        )

    def salvage_log(self, item: Item, area: bytes, rest: dict[str, bytes]) -> None:
        """The last lines of an attempt whose process died: pending ones, then what its pipes still held."""
        pending = read_pending(area)
        ours = pending.number == item.seq
        if ours and pending.chunk is not None and pending.chunk.chunk_no >= item.next_chunk:
            self.log_chunk(item, pending.chunk, _nothing)
        dropped = pending.dropped if ours else 0
        if ours:
            rest = {stream: pending.partial[stream] + data for stream, data in rest.items()}
        if not dropped and not any(rest.values()):
            return
        log = LogBuffer(
            lambda chunk: self.log_chunk(item, chunk, _nothing),
            log_max=0 if dropped else _REST_MAX,
            mask=Masker(item.workload.hidden.values()),
            first_chunk=item.next_chunk,
            first_seq=item.next_line,
        )
        log.drop(dropped)
        for stream, data in rest.items():
            splitter = LineSplitter(stream)
            splitter.feed(data, log)
            splitter.finish(log)
        log.close()


def chunk_of(body: bytes) -> Chunk:
    """The runner's LOG message."""
    _, chunk_no, first_seq, lines, raw_bytes, truncated = wire.LOG_BODY.unpack_from(body)
    return Chunk(chunk_no, first_seq, lines, raw_bytes, truncated, body[wire.LOG_BODY.size :])


def _nothing() -> None:
    """The process is dead: nobody waits for its log to be stored."""

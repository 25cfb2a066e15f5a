"""What a runner says about an attempt, as the frames of `wire.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from agentflow.runner import wire
from agentflow.runner.attempt import AttemptResult
from agentflow.runner.logs import Chunk
from agentflow.workload import Outcome


def started_frame(seq: int, wall: float, mono: float) -> bytes:
    """The attempt begins."""
    return wire.frame(wire.STARTED, wire.STARTED_BODY.pack(seq, wall, mono))


def expired_frame(seq: int) -> bytes:
    """The attempt did not begin, because its deadline had passed."""
    return wire.frame(wire.EXPIRED, wire.SEQ_BODY.pack(seq))


def log_frame(seq: int, chunk: Chunk) -> bytes:
    """Some lines of the attempt's log."""
    head = wire.LOG_BODY.pack(seq, chunk.chunk_no, chunk.first_seq, chunk.lines, chunk.raw_bytes, chunk.truncated_bytes)
    return wire.frame(wire.LOG, head + chunk.data)


@dataclass(frozen=True, slots=True)
class Finish:
    """The attempt is over; whether the process retires is known a moment later."""

    seq: int
    result: AttemptResult
    started: float  #: Seconds since the epoch.
    finished: float

    def frame(self, *, retire: bool) -> bytes:
        """The FINISHED message."""
        code = wire.OUTCOMES.index(self.result.outcome.value)
        head = wire.FINISHED_BODY.pack(self.seq, code, retire, self.started, self.finished)
        return wire.frame(wire.FINISHED, head + self._body())

    def _body(self) -> bytes:
        if self.result.outcome is Outcome.SUCCESS:
            return (self.result.output or "").encode()
        if self.result.deferral is not None:
            return self.result.deferral.model_dump_json().encode()
        return (
            json.dumps(self.result.error.model_dump(exclude_none=True)).encode()
            if self.result.error is not None
            else b""
        )

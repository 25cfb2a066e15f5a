"""One workload on its way through the executor."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentflow.runner import wire
from agentflow.workload import Deferral, Workload
from executors.processes.outcomes import StopReason

if TYPE_CHECKING:
    from executors.processes.handle import Handle

#: What a process serves: workspace and code bundle.
Key = tuple[str, str | None]


class Item:
    """Mutable; belongs to the I/O thread."""

    __slots__ = (
        "deadline",
        "handle",
        "lane",
        "log_bytes",
        "next_chunk",
        "next_line",
        "seq",
        "started_at",
        "started_mono",
        "stop",
        "workload",
    )

    def __init__(self, workload: Workload, *, lane: bool = False) -> None:
        self.workload = workload
        self.lane = lane  #: Whether it shares a process with others.
        self.handle: Handle | None = None  #: The runner that holds it.
        self.seq = 0  #: Its number within that runner.
        self.deadline = 0.0  #: `time.monotonic()` until which it may start.
        self.started_at: datetime | None = None
        self.started_mono = 0.0
        self.stop: StopReason | None = None  #: Set once we decided to stop it.
        self.next_chunk = workload.turn.chunks
        self.next_line = workload.turn.lines + 1
        self.log_bytes = workload.turn.log_bytes

    @property
    def key(self) -> Key:
        """Which processes may run it; what shares a process is not the bundle's code."""
        return self.workload.workspace, None if self.lane else self.workload.bundle

    def run_frame(self, seq: int, deadline: float) -> bytes:
        """The message that hands it to a runner."""
        self.seq, self.deadline = seq, deadline
        document = self.workload.model_dump_json().encode()
        return wire.frame(wire.RUN, wire.RUN_BODY.pack(seq, deadline) + document)

    def with_log(self, deferral: Deferral) -> Deferral:
        """The deferral with what the log of the next turn goes on from."""
        place = {"chunks": self.next_chunk, "lines": self.next_line - 1, "log_bytes": self.log_bytes}
        return deferral.model_copy(update=place)

    def mark_started(self, wall: float, mono: float) -> None:
        """The runner reported its start."""
        self.started_at = moment(wall)
        self.started_mono = mono


def moment(wall: float) -> datetime:
    """A runner's clock reading as a time."""
    return datetime.fromtimestamp(wall, UTC)

"""What an executor is given and what it answers: the documents between scheduler, executor and runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Limits(BaseModel):
    """Bounds of one attempt."""

    model_config = ConfigDict(frozen=True)

    timeout: float | None = None  #: Seconds from the attempt's start.
    memory: int | None = None  #: Bytes, for the attempt's whole process group.
    cpu: float | None = None  #: Cores; a weight on one machine.
    output_max: int = 16 * 2**20  #: Bytes of the JSON output.
    log_max: int = 16 * 2**20  #: Bytes of log text kept; the rest is counted and dropped.
    allow_private_http: bool = False  #: Whether `http` may reach private, loopback and metadata addresses.


class Turn(BaseModel):
    """Where an attempt that was deferred goes on."""

    model_config = ConfigDict(frozen=True)

    state: Any = None  #: What it left at the end of its turn before.
    waited: float = 0.0  #: Seconds since its first turn began, by one clock.
    chunks: int = 0  #: Of its log so far: chunks, lines and bytes.
    lines: int = 0
    log_bytes: int = 0


FIRST_TURN = Turn()


class Deferral(BaseModel):
    """An attempt's wish to go on later; until then nobody holds it, and it costs no slot.

    A duration, not a time: the clocks of two machines differ, durations do not.
    """

    model_config = ConfigDict(frozen=True)

    after: float  #: Seconds.
    state: Any = None  #: JSON; its next turn gets it back.
    chunks: int = 0  #: Of its log with this turn; the executor counts them.
    lines: int = 0
    log_bytes: int = 0


class ConnectionFields(BaseModel):
    """A connection that a node names."""

    model_config = ConfigDict(frozen=True)

    fields: dict[str, Any] = Field(default_factory=dict)  #: Plain ones, and `type`.
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)


class Workload(BaseModel):
    """One attempt to run: one JSON document, whole in itself."""

    model_config = ConfigDict(frozen=True)

    attempt_id: str  #: `<run_id>/<node_no>/<map_index>/<attempt>`; unique for ever.
    token: str  #: Fencing token, hex; goes back with every event.
    run_id: str
    workspace: str
    workflow: str
    version: int
    node: str  #: Node id in the workflow.
    map_index: int | None = None
    attempt: int  #: From 1.
    type: str  #: Node type, a name in the `agentflow.nodes` entry points.
    config: dict[str, Any]  #: Raw: templates not rendered yet.
    context: dict[str, Any] = Field(default_factory=dict)
    """Template names: `params`, `nodes`, `run`, `vars`, and `item` and `index` when mapped."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Outputs that are too large for `context`: by node, the file on this machine that holds the JSON text."""
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)  #: Only those that the config names.
    connections: dict[str, ConnectionFields] = Field(default_factory=dict)  #: Only those that the config names.
    limits: Limits = Limits()
    turn: Turn = FIRST_TURN
    bundle: str | None = None  #: Content hash of the code bundle, extracted in `bundles_dir/<hash>`.
    trace: dict[str, str] = Field(default_factory=dict)
    """What ties it to who asked for it: `request_id`."""

    @property
    def hidden(self) -> dict[str, str]:
        """Values that neither logs nor outputs may show, by what people call them."""
        if not self.connections:
            return self.secrets
        inner = {f"{name}.{key}": value for name, one in self.connections.items() for key, value in one.secrets.items()}
        return self.secrets | inner

    @property
    def log_left(self) -> int:
        """Bytes of log text that this turn may still add to the attempt's log."""
        return max(0, self.limits.log_max - self.turn.log_bytes)


def storable(text: str) -> str:
    """Text that Postgres takes: no NUL, no lone surrogates."""
    text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


class ErrorInfo(BaseModel):
    """The error object of SEMANTICS section 3; its texts can be stored, whatever they were made of."""

    model_config = ConfigDict(frozen=True)

    type: str  #: Exception class name, or `Timeout`, `ExitCode`, `Signal`, `OutOfMemory`, `Lost`…
    message: str
    exit_code: int | None = None
    signal: int | None = None
    traceback: str | None = None
    bases: tuple[str, ...] = ()  #: Names of the exception's base classes, for `retry_on`; not shown to anybody.

    @field_validator("type", "message", "traceback")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return None if value is None else storable(value)

    def as_document(self) -> dict[str, Any]:
        """JSON without the fields that are not set."""
        return self.model_dump(exclude_none=True, exclude={"bases"})


class Outcome(StrEnum):
    """How an attempt ended, as the executor saw it."""

    SUCCESS = "success"
    FAILED = "failed"  #: The user's budget: exception, exit code, other signal, timeout, out of memory.
    CANCELLED = "cancelled"  #: `cancel` was called and the attempt was stopped.
    LOST = "lost"  #: The infrastructure's budget: runner gone, SIGKILL not sent by us.
    REFUSED = "refused"  #: The executor would not take it; counts as a loss.
    RETURNED = "returned"  #: Not begun, and given back by an executor that drains; no budget pays for it.
    DEFERRED = "deferred"  #: Not over: it wants to go on later (`Finished.deferral`).
    SKIPPED = "skipped"  #: The node asked to be skipped (shell's `skip_exit_code`); the attempt itself succeeded.


@dataclass(frozen=True, slots=True)
class Started:
    """The runner began the attempt."""

    attempt_id: str
    token: str
    at: datetime  #: Stamped in the runner.


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """A large output that is in the object store already."""

    ref: str  #: Name of the object.
    bytes: int
    preview: str  #: Its first characters.


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempt is over, or this turn of it; exactly one per submitted workload."""

    attempt_id: str
    token: str
    outcome: Outcome
    started_at: datetime | None  #: None when it never started.
    finished_at: datetime
    output: str | None = None  #: JSON text, only with SUCCESS.
    error: ErrorInfo | None = None
    stored: StoredOutput | None = None  #: In place of `output`, set by the scheduler; executors leave it.
    deferral: Deferral | None = None  #: Only with DEFERRED.


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Some lines of an attempt's log, compressed at the source (ENGINE 11)."""

    attempt_id: str
    token: str
    chunk_no: int  #: From 0, without gaps within an attempt.
    first_seq: int  #: Line number of the first line, from 1.
    lines: int
    data: bytes  #: zlib of JSON lines `[seq, at, stream, level, text]`.
    raw_bytes: int  #: Size before compression.
    truncated_bytes: int = 0  #: Dropped over LOG_MAX; only on the last chunk.
    stored: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called once the chunk is on disk (or given up): the executor may then read more from this runner."""


ExecutorEvent = Started | Finished | LogChunk

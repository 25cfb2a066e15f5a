"""What a node type is. Each built-in type is one file beside this one, found through entry points."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

#: Marks a field whose text is never a template: `Field(json_schema_extra=LITERAL)`.
LITERAL: dict[str, Any] = {"x-template": False}


MAX_DEFERRAL = 366 * 86400.0  #: Seconds.


class NodeConfig(BaseModel):
    """Base of every node type's config: strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeLog(Protocol):
    """Writes a line, or several at once, to the attempt's log; a line end at the very end adds no empty line."""

    def __call__(self, text: str, *, level: str = "info", stream: str = "system") -> None: ...


MakeRoom = Callable[[], Awaitable[None]]


async def _enough_room() -> None:
    """A node that is alone in its process has all of its memory."""


def unheard(text: str, *, level: str = "info", stream: str = "system") -> None:
    """A log that nobody reads: outside a runner, or of steps that are not worth a line."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What an attempt may know of its surroundings."""

    run_id: str = ""
    request_id: str = ""  #: Of the request that made the run; empty when none did.
    workflow: str = ""
    node: str = ""
    map_index: int | None = None
    attempt: int = 1
    state: Any = None  #: What the attempt gave to `NodeDeferred` the last time; None in its first turn.
    waited: float = 0.0  #: Seconds from the attempt's first turn to this one.
    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Those that its config names: their fields, secret ones too, and `type`."""
    work_dir: Path = field(default_factory=Path.cwd)  #: Private, empty, removed after the attempt.
    bundle_dir: Path | None = None  #: Root of the user's code; on `sys.path` of python nodes.
    output_max: int = 16 * 2**20  #: Bytes; a node that reads from outside stops there.
    allow_private_http: bool = False
    log: NodeLog = unheard
    make_room: MakeRoom = _enough_room
    """Awaited by an `AsyncNodeType` before it holds more than a MiB: in a shared process few may at once."""


class NodeFailed(Exception):
    """The node itself says that it failed; `kind` becomes the error object's `type`, the codes go in as they are."""

    def __init__(
        self, message: str, *, kind: str = "NodeFailed", exit_code: int | None = None, signal: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code
        self.signal = signal


class NodeSkipped(Exception):
    """The node asks to be skipped (shell's `skip_exit_code`)."""


class NodeDeferred(Exception):
    """The node asks to be called again later, in the same attempt; until then it holds no slot and no process.

    `state` is JSON and comes back as `NodeContext.state`. It is stored as it is: no place for secrets.
    """

    def __init__(self, after: timedelta | float, state: Any = None) -> None:
        super().__init__()
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if not 0 <= seconds <= MAX_DEFERRAL:
            raise ValueError(f"a node can be deferred by 0 to {MAX_DEFERRAL:.0f} seconds, not by {seconds}")
        self.after = seconds
        self.state = state


ConfigT = TypeVar("ConfigT", bound=NodeConfig)


class NodeType(Generic[ConfigT]):
    """A kind of node: a config model and one method.

    The config's JSON Schema feeds validation and the editor; `run` is called in the runner with the rendered config
    and returns JSON. Anything it raises fails the attempt.
    """

    name: ClassVar[str]  #: Its word in `type:`.
    title: ClassVar[str]
    description: ClassVar[str]
    Config: type[ConfigT]
    uses_code: ClassVar[bool] = False  #: Whether the code bundle belongs to what it runs.

    def run(self, config: ConfigT, context: NodeContext) -> Any:
        """Do the work; return JSON."""
        raise NotImplementedError


class SchedulerNodeType(NodeType[ConfigT]):
    """A kind of node that the scheduler carries out by itself, with its evaluator: no executor is given one."""

    def run(self, config: ConfigT, context: NodeContext) -> Any:
        """Refuse."""
        del config, context
        raise NodeFailed(f"a `{self.name}` node is the scheduler's own: no executor can run it")


class AsyncNodeType(NodeType[ConfigT]):
    """A kind of node that only waits for others, most of all for the network: many attempts share a process.

    Executors that have I/O lanes run `arun` of many attempts on one event loop (docs/executors.md); the others call
    `run`, which gives it a loop of its own. So `arun` must not block, must let `CancelledError` through within
    moments, and must leave alone what belongs to the whole process: working directory, environment, signals, threads
    that stay. Only types of AgentFlow itself are trusted with that; others get a process of their own all the same.
    """

    async def arun(self, config: ConfigT, context: NodeContext) -> Any:
        """Do the work; return JSON."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Give back what the attempts of the running event loop share, such as open connections."""

    def run(self, config: ConfigT, context: NodeContext) -> Any:
        """The same on a loop of its own, in a process of its own."""
        import asyncio  # slow to import, and the command line reads this module

        return asyncio.run(self._alone(config, context))

    async def _alone(self, config: ConfigT, context: NodeContext) -> Any:
        try:
            return await self.arun(config, context)
        finally:
            await self.aclose()

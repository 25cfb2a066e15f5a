"""An I/O lane: a process that runs many attempts at once, all of them waiting for the network most of the time.

Each attempt is a task of one event loop, with a log of its own and a place of its own in the messages with the
executor, which can stop it alone. A lane trusts its node types (`AsyncNodeType`) not to block; a step that blocks the
loop all the same is ended by the watchdog, and only if that does not help, the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Final

from agentflow.nodes import registry
from agentflow.nodes.base import AsyncNodeType
from agentflow.runner import STOPPED, AttemptResult, arun_attempt, wire
from agentflow.runner.errors import describe
from agentflow.runner.hygiene import resident
from agentflow.runner.masking import Masker
from agentflow.runner.reports import Finish, expired_frame, log_frame, started_frame
from agentflow.runner.shared_log import SharedLog, SharedStreams, current
from agentflow.workload import Outcome, Workload
from executors.processes.watchdog import Watchdog
from executors.processes.worker import Equipment, end_group, memory_limit

GROWTH_MAX: Final = 200 * 2**20  # bytes of resident memory after which a lane takes no more work
ATTEMPTS_MAX: Final = 20_000  # attempts of a lane
MEMORY_MAX: Final = 2**30  # bytes by which the data segment may grow; above it, an attempt gets a `MemoryError`
LARGE_AT_ONCE: Final = 4  # attempts that may hold more than a MiB, such as a large body
_CLOSE_MAX: Final = 2.0  # seconds for closing connections at the end
_STACK: Final = 512 * 1024  # bytes of a thread's stack, which counts as memory of the process
_NO_SECRETS: Final = Masker()

#: The attempt that runs here; follows its tasks.
running: ContextVar[Attempt | None] = ContextVar("running", default=None)


def serve_lane(equipment: Equipment) -> None:
    """Run workloads until the executor closes the socket."""
    equipment.area.close()
    os.close(equipment.token_fd)
    for number in (1, 2):
        os.set_blocking(number, False)  # nobody reads what C code prints before the process ends
    os.chdir(equipment.work_dir)
    threading.stack_size(_STACK)
    SharedStreams().take_over()
    with memory_limit(MEMORY_MAX):
        asyncio.run(Lane(equipment.work_dir).serve(equipment))


class Attempt:
    """One attempt at work."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.task: asyncio.Task[None] | None = None
        self.log: SharedLog | None = None
        self.large = False  #: Whether it holds one of the few places for large ones.
        self.begun = False  #: Whether the task has had its first step; before, cancelling it would be its end unheard.
        self.stopped = False  #: Whether it is to end.
        self.exposed = False  #: Whether the node is at work, which the watchdog may end; else it is our own code.

    def stop(self) -> None:
        """End it, alone."""
        self.stopped = True
        if self.begun and self.task is not None:
            self.task.cancel()


class Lane(asyncio.Protocol):
    """The executor's counterpart in the process."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._frames = wire.FrameReader()
        self._attempts: dict[int, Attempt] = {}
        self._types: set[str] = set()
        self._ended = 0
        self._memory = resident()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._gone = asyncio.Event()
        self._watchdog = Watchdog(self._exposed)

    async def serve(self, equipment: Equipment) -> None:
        """Run workloads until the executor goes away or lets go of the lane."""
        self._writable.set()
        await asyncio.get_running_loop().create_connection(lambda: self, sock=equipment.sock)
        await self._gone.wait()
        if self._attempts:
            end_group()  # nobody would hear of their results
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_MAX):
                for name in self._types:
                    node_type = registry.get(name)
                    if isinstance(node_type, AsyncNodeType):
                        await node_type.aclose()

    # The executor's messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line to the executor stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take messages."""
        for kind, body in self._frames.feed(data):
            (seq,) = wire.SEQ_BODY.unpack_from(body)
            if kind == wire.RUN:
                self._begin(body)
            elif (attempt := self._attempts.get(seq)) is None:
                continue
            elif kind == wire.STOP:
                attempt.stop()
            elif kind == wire.STORED and attempt.log is not None:
                attempt.log.stored()

    def connection_lost(self, exc: Exception | None) -> None:
        """The executor is gone, or needs this lane no more."""
        del exc
        self._gone.set()

    def pause_writing(self) -> None:
        """The executor does not keep up."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def _write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    # Attempts

    def _begin(self, body: bytes) -> None:
        seq, deadline = wire.RUN_BODY.unpack_from(body)
        if time.monotonic() > deadline:
            self._write(expired_frame(seq))
            return
        self._watchdog.start(asyncio.get_running_loop())
        attempt = self._attempts[seq] = Attempt(seq)
        self._write(started_frame(seq, time.time(), time.monotonic()))
        context = copy_context()
        context.run(running.set, attempt)
        attempt.task = asyncio.create_task(self._run(attempt, body[wire.RUN_BODY.size :]), context=context)

    async def _run(self, attempt: Attempt, document: bytes) -> None:
        """One attempt from its workload to its FINISHED message, whatever happens."""
        started = time.time()
        attempt.begun = True
        try:
            result = await self._result(attempt, document)
        except BaseException as error:  # noqa: BLE001 - the attempt is what fails, not the lane
            result = AttemptResult(Outcome.FAILED, error=describe(error, _NO_SECRETS))
        finished = time.time()
        try:
            if attempt.log is not None:
                await attempt.log.finish()
            await self._writable.wait()
        except asyncio.CancelledError:  # stopped while it waited for its log to be stored
            pass
        if attempt.log is not None:
            attempt.log.close()
        self._ended += 1
        del self._attempts[attempt.seq]
        self._write(Finish(attempt.seq, result, started, finished).frame(retire=self._worn_out()))
        del result
        if attempt.large:
            await self._writable.wait()  # until the executor has taken most of it
            self._large.release()
        if not self._attempts:
            self._watchdog.stop()

    async def _result(self, attempt: Attempt, document: bytes) -> AttemptResult:
        if attempt.stopped:
            return STOPPED
        attempt.exposed = True
        try:
            workload = Workload.model_validate_json(document)
            mask = Masker(hidden.values()) if (hidden := workload.hidden) else _NO_SECRETS
            attempt.log = SharedLog(
                lambda chunk: self._write(log_frame(attempt.seq, chunk)),
                log_max=workload.log_left,
                mask=mask,
                first_chunk=workload.turn.chunks,
                first_seq=workload.turn.lines + 1,
            )
            current.set(attempt.log)
            self._types.add(workload.type)
            return await arun_attempt(
                workload,
                work_dir=self._work_dir,
                log=attempt.log.line,
                mask=mask,
                make_room=partial(self._make_room, attempt),
            )
        finally:
            attempt.exposed = False

    async def _make_room(self, attempt: Attempt) -> None:
        if not attempt.large:
            await self._large.acquire()
            attempt.large = True

    def _exposed(self) -> bool:
        """Whether what runs at this moment is a node's own step."""
        attempt = running.get()
        return attempt is not None and attempt.exposed and not (attempt.log is not None and attempt.log.busy)

    def _worn_out(self) -> bool:
        return self._ended >= ATTEMPTS_MAX or resident() - self._memory > GROWTH_MAX

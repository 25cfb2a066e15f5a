"""The logs of attempts that share a process: each its own, whoever prints.

`sys.stdout`, `sys.stderr` and `logging` lead to the log of the attempt in whose context they are used: a `ContextVar`
follows each task, the tasks and threads that it starts, and nothing else. An attempt's chunks are sent while fewer than
CREDIT of them wait for storage; then they queue here, and only its own end waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from mmap import mmap
from typing import Any, Final

from agentflow.runner.capture import LineSplitter, LogHandler, TextStream
from agentflow.runner.logs import AREA_SIZE, CHUNK_AGE, Chunk, LogBuffer
from agentflow.runner.masking import Masker

CREDIT: Final = 8  # chunks of an attempt that may wait for storage

#: The log of the attempt that runs here.
current: ContextVar[SharedLog | None] = ContextVar("current_log", default=None)


class SharedLog:
    """One attempt's log; belongs to the event loop's thread, other threads are sent there."""

    def __init__(
        self, send: Callable[[Chunk], None], *, log_max: int, mask: Masker, first_chunk: int = 0, first_seq: int = 1
    ) -> None:
        """`send` gives a chunk to the executor."""
        self._send = send
        self._first = {"first_chunk": first_chunk, "first_seq": first_seq}
        self._log_max = log_max
        self._mask = mask
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._area: mmap | None = None
        self._buffer: LogBuffer | None = None
        self._splitters: dict[str, LineSplitter] = {}
        self._queue: deque[Chunk] = deque()
        self._credit = CREDIT
        self._timer: asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._empty = asyncio.Event()
        self._closed = False
        #: Whether a line is just being written, which nothing may tear.
        self.busy = False

    def line(self, text: str, *, level: str = "info", stream: str = "system") -> None:
        """Write lines (the `log` of a node's context)."""
        self._do(self._add_lines, text, level, stream)

    def feed(self, stream: str, data: bytes) -> None:
        """Take bytes of a stream."""
        if data:
            self._do(self._add_bytes, stream, data)

    def stored(self) -> None:
        """A chunk is on disk."""
        self._credit += 1
        self._pump()

    async def finish(self) -> None:
        """Write what is left, and wait until all of it is sent."""
        for splitter in self._splitters.values():
            splitter.finish(self._open())
        if self._buffer is not None:
            self._buffer.close()
        if self._queue:
            await self._empty.wait()

    def close(self) -> None:
        """Send the rest without waiting for storage; what still comes is lost."""
        self._closed = True
        self._credit = len(self._queue)
        self._pump()
        if self._timer is not None:
            self._timer.cancel()
        if self._area is not None:
            self._buffer = None
            self._area.close()

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._guarded, action, *arguments)
        else:
            self._guarded(action, *arguments)

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._closed:
            return
        self.busy = True
        try:
            action(*arguments)
            self._plan_flush()
        finally:
            self.busy = False

    def _add_lines(self, text: str, level: str, stream: str) -> None:
        log = self._open()
        if log.full:
            log.drop(len(text) + (not text.endswith("\n")))
            return
        for line in text.removesuffix("\n").split("\n"):
            log.line(line.removesuffix("\r"), stream, level)

    def _add_bytes(self, stream: str, data: bytes) -> None:
        self._splitters.setdefault(stream, LineSplitter(stream)).feed(data, self._open())

    def _open(self) -> LogBuffer:
        """Most attempts write a line or two, many none; memory is taken page by page."""
        if self._buffer is None:
            self._area = mmap(-1, AREA_SIZE)
            self._buffer = LogBuffer(self._emit, log_max=self._log_max, mask=self._mask, area=self._area, **self._first)
        return self._buffer

    def _plan_flush(self) -> None:
        """A first line goes out at once: nobody could fetch it here if this process died."""
        if self._timer is None and self._buffer is not None and self._buffer.pending:
            pause = self._flushed_at + CHUNK_AGE - time.monotonic()
            self._timer = self._loop.call_later(pause, self._flush) if pause > 0 else self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._flushed_at = time.monotonic()
        if self._buffer is not None and not self._closed:
            self._buffer.flush()

    def _emit(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self._empty.clear()
        self._pump()

    def _pump(self) -> None:
        while self._queue and self._credit > 0:
            self._credit -= 1
            self._send(self._queue.popleft())
        if not self._queue:
            self._empty.set()


class SharedStreams:
    """Python's streams and `logging` of a process with many attempts."""

    flooded: LogBuffer | None = None  #: Only what belongs to one attempt alone can be skipped so early.

    def take_over(self) -> None:
        """Point Python's streams and the root logger here."""
        sys.stdout, sys.stderr = TextStream(self, "stdout"), TextStream(self, "stderr")
        root = logging.getLogger()
        root.handlers[:] = [LogHandler(self)]
        root.setLevel(logging.INFO)

    def feed(self, stream: str, data: bytes) -> None:
        """Take bytes for the attempt at work; what is nobody's is dropped."""
        if (log := current.get()) is not None:
            log.feed(stream, data)

    def line(self, text: str, *, level: str = "info", stream: str = "system") -> None:
        """Take lines for the attempt at work."""
        if (log := current.get()) is not None:
            log.line(text, level=level, stream=stream)

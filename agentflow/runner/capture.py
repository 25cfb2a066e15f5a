"""Catches what a node and its child processes print, line by line, with its stream.

Python's own `sys.stdout`, `sys.stderr` and `logging` feed the log directly. File descriptors 1 and 2 are pipes, for
child processes and C code; a helper thread reads them, and `end` reads what is left, so that everything written before
an attempt's end is in its log. The same thread flushes lines that are older than 200 ms and watches the executor.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from agentflow.runner.logs import CHUNK_AGE, LINE_MAX, LogBuffer
from agentflow.runner.termination import Termination

_READ_MAX: Final = 256 * 1024  # bytes per read of a pipe
_FDS: Final = {"stdout": 1, "stderr": 2}


class LineSplitter:
    """Cuts bytes into lines and gives them to a log; keeps the unfinished line."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._rest = b""

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._rest != b""

    def feed(self, data: bytes, log: LogBuffer) -> None:
        """Take more bytes."""
        if log.full:
            log.drop(len(self._rest) + len(data))
            self._rest = b""
            return
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            log.line(line.removesuffix(b"\r").decode("utf-8", "replace"), self._stream)
        # An endless line is cut, but never inside a secret that may not have arrived whole.
        if len(rest) > LINE_MAX + log.mask.longest * 4:
            text = log.mask(rest.decode("utf-8", "replace"))
            keep = log.mask.longest
            log.line(text[: len(text) - keep], self._stream)
            rest = text[len(text) - keep :].encode()
        self._rest = rest
        log.note_partial(self._stream, rest)

    def finish(self, log: LogBuffer) -> None:
        """The stream ends here: its last line had no line end."""
        if self._rest:
            log.line(self._rest.decode("utf-8", "replace"), self._stream)
        self._rest = b""


class Capture:
    """The standard streams of a runner process."""

    def __init__(
        self, pipes: dict[str, int], *, lifeline: int, on_hangup: Callable[[], None], termination: Termination
    ) -> None:
        """`pipes`: read ends by stream; `lifeline`: a socket whose hang-up means that the executor is gone."""
        self._pipes = pipes
        self._lifeline = lifeline
        self._on_hangup = on_hangup
        self._shield = termination
        self._lock = threading.RLock()
        self._log: LogBuffer | None = None
        self._splitters = {stream: LineSplitter(stream) for stream in _FDS}
        self._wake_read, self._wake_write = os.pipe()
        self._asleep = False
        self._forked = False
        #: The log, once it takes nothing any more: what is printed then is only counted, without any lock.
        self.flooded: LogBuffer | None = None
        self.stdout: io.TextIOBase = TextStream(self, "stdout")
        self.stderr: io.TextIOBase = TextStream(self, "stderr")
        self._handler = LogHandler(self)

    def start(self) -> None:
        """Start the helper thread and take over the streams."""
        for fd in (*self._pipes.values(), self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        os.register_at_fork(after_in_child=self._after_fork)
        threading.Thread(target=self._watch, name="agentflow-log", daemon=True).start()
        self.take_over()

    def take_over(self) -> None:
        """Point Python's streams and the root logger here; undoes what an attempt may have changed."""
        sys.stdout, sys.stderr = self.stdout, self.stderr
        root = logging.getLogger()
        if root.handlers != [self._handler]:
            root.handlers[:] = [self._handler]
        if root.level != logging.INFO:
            root.setLevel(logging.INFO)

    def begin(self, log: LogBuffer) -> None:
        """What comes from now on belongs to this log."""
        with self._lock:
            self._log = log

    def end(self) -> None:
        """Put everything written so far into the log and close it."""
        with self._shield, self._lock:
            log, self._log, self.flooded = self._log, None, None
            if log is None:
                return
            for stream, fd in self._pipes.items():
                while data := _read(fd):
                    self._splitters[stream].feed(data, log)
                self._splitters[stream].finish(log)
            log.close()

    def line(self, text: str, *, level: str = "info", stream: str = "system") -> None:
        """Write lines to the log (the `log` of a node's context)."""
        if self._forked:
            return
        with self._shield, self._lock:
            log = self._log
            if log is None:
                return
            if log.full:
                log.drop(len(text) + (not text.endswith("\n")))
                return
            for line in text.removesuffix("\n").split("\n"):
                log.line(line.removesuffix("\r"), stream, level)
            self._nudge()

    def feed(self, stream: str, data: bytes) -> None:
        """Take bytes that Python code wrote to one of its streams."""
        if not data:
            return
        if self._forked:
            _write_all(_FDS[stream], data)  # a forked child reaches the log like any other child process
            return
        with self._shield, self._lock:
            if self._log is not None:
                splitter = self._splitters[stream]
                if not splitter.unfinished:  # what child processes wrote before comes before a new line of ours
                    data = _read(self._pipes[stream]) + data
                splitter.feed(data, self._log)
                if self._log.full:
                    splitter.feed(b"", self._log)
                    self.flooded = self._log
                self._nudge()

    def _nudge(self) -> None:
        """Wake the helper thread when it has no reason yet to look at the clock."""
        if self._asleep and self._log is not None and self._log.pending:
            self._asleep = False
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")

    def _watch(self) -> None:
        poll = select.poll()
        for fd in (*self._pipes.values(), self._wake_read):
            poll.register(fd, select.POLLIN)
        poll.register(self._lifeline, 0)  # hang-ups are always reported
        streams = {fd: stream for stream, fd in self._pipes.items()}
        while True:
            for fd, event in poll.poll(self._patience()):
                if fd == self._lifeline:
                    self._on_hangup()
                    poll.unregister(fd)
                elif event & select.POLLIN:
                    self._pump(fd, streams.get(fd))
                else:
                    poll.unregister(fd)  # every writer of this pipe is gone
            with self._lock:
                due = self._log.due_in() if self._log is not None else None
                if due is not None and due <= 0 and self._log is not None:
                    self._log.flush()

    def _patience(self) -> float | None:
        """Milliseconds to wait; None: until something happens."""
        with self._lock:
            due = self._log.due_in() if self._log is not None else None
            # After a quiet interval the thread sleeps until `_nudge`; so a stream of short attempts wakes it rarely.
            self._asleep = due is None
        return None if due is None else max(due, 0.0) * 1000 + 1 if due > 0 else CHUNK_AGE

    def _pump(self, fd: int, stream: str | None) -> None:
        if stream is None:
            _read(fd)
            return
        with self._lock:
            data = _read(fd)
            if data and self._log is not None:
                self._splitters[stream].feed(data, self._log)

    def _after_fork(self) -> None:
        """In a forked child: no lock of the parent, no socket of the parent; only file descriptors 1 and 2."""
        self._forked = True
        self.flooded = None
        self._lock = threading.RLock()


class Sink(Protocol):
    """Where Python's streams and `logging` lead."""

    flooded: LogBuffer | None

    def feed(self, stream: str, data: bytes) -> None:
        """Take bytes of a stream."""

    def line(self, text: str, *, level: str = "info", stream: str = "system") -> None:
        """Take lines."""


class TextStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`."""

    errors = "backslashreplace"
    encoding = "utf-8"

    def __init__(self, capture: Sink, stream: str) -> None:
        self._capture = capture
        self._stream = stream
        self.name = f"<{stream}>"
        self.mode = "w"
        self.buffer: Any = _ByteStream(capture, stream)

    def write(self, text: str) -> int:
        flooded = self._capture.flooded
        if flooded is not None:
            flooded.drop(len(text) if text.isascii() else len(text.encode("utf-8", "replace")))
        else:
            self._capture.feed(self._stream, text.encode("utf-8", "replace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _FDS[self._stream]

    def close(self) -> None:
        """The stream outlives the attempt."""


class _ByteStream(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, capture: Sink, stream: str) -> None:
        self._capture = capture
        self._stream = stream

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._capture.feed(self._stream, raw)
        return len(raw)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _FDS[self._stream]

    def close(self) -> None:
        """The stream outlives the attempt."""


class LogHandler(logging.Handler):
    """Python's `logging`: the level goes into the log line, the logger's name before the text."""

    def __init__(self, capture: Sink) -> None:
        super().__init__()
        self._capture = capture

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not fail the node
            self.handleError(record)
            return
        prefix = "" if record.name == "root" else f"{record.name}: "
        level = record.levelname.lower()
        self._capture.line(prefix + text, level=level, stream="stderr")


def _read(fd: int) -> bytes:
    """What the pipe holds now; empty when that is nothing."""
    try:
        return os.read(fd, _READ_MAX)
    except BlockingIOError:
        return b""


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

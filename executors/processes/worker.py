"""A runner process: takes workloads from its socket, runs one after the other, reports.

The executor writes frames to the socket and, once a frame is through, one byte per workload to the **token pipe**. A
runner takes a token before each attempt; the executor takes tokens back to withdraw workloads that have not begun. One
byte of a pipe is read by exactly one side, so both always agree on what has begun.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Final

from agentflow.runner import run_attempt, wire
from agentflow.runner.capture import Capture
from agentflow.runner.hygiene import Footprint
from agentflow.runner.logs import Chunk, LogBuffer
from agentflow.runner.masking import Masker
from agentflow.runner.termination import Terminated, Termination
from agentflow.workload import Outcome, Workload

_READ_MAX: Final = 256 * 1024  # bytes per read of the socket
_NO_SECRETS: Final = Masker()
_HOLD_MAX: Final = 0.001  # seconds that the reports of instant attempts may wait for each other
#: Node types that cannot take long: their start is reported together with their end.
_INSTANT: Final = frozenset({"noop"})


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the zygote gives a new process."""

    sock: socket.socket
    token_fd: int
    area: mmap  #: Shared with the zygote: pending log lines survive a crash.
    pipes: dict[str, int]  #: Read ends of file descriptors 1 and 2.
    work_dir: Path
    bundles_dir: Path
    one_attempt: bool  #: Whether the process ends with its first attempt.


def serve(equipment: Equipment) -> None:
    """Run workloads until the executor closes the socket or the process has to retire."""
    Runner(equipment).serve()


class Channel:
    """Sends frames; messages of different threads never mix."""

    def __init__(self, sock: socket.socket, shield: Termination) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._shield = shield
        self._held = b""
        self._sent_at = 0.0

    def hold(self, frame: bytes) -> None:
        """Send this with the next frame, or at `flush`: saves system calls on both sides."""
        self._held += frame

    @property
    def overdue(self) -> bool:
        """Whether held frames should not wait for another attempt."""
        return time.monotonic() - self._sent_at > _HOLD_MAX

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self.send(b"")

    def send(self, frame: bytes) -> None:
        """Send now; waits while the executor does not read (back-pressure)."""
        with self._shield, self._lock:
            data, self._held = self._held + frame, b""
            self._sent_at = time.monotonic()
            try:
                self._sock.sendall(data)
            except OSError:
                end_group()  # the executor is gone


class Runner:
    """The loop of a runner process."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._sock = equipment.sock
        self._token_fd = equipment.token_fd
        self._queue: deque[tuple[int, float, bytes]] = deque()
        self._frames = wire.FrameReader()
        self._termination = Termination()
        self._channel = Channel(equipment.sock, self._termination)
        self._capture = Capture(
            equipment.pipes, lifeline=equipment.sock.fileno(), on_hangup=end_group, termination=self._termination
        )
        self._work_dir = WorkDir(equipment.work_dir)
        self._bundle_dir: Path | None = None

    def serve(self) -> None:
        """Run workloads until told to end."""
        os.set_blocking(self._token_fd, False)
        self._termination.install()
        self._capture.start()
        os.chdir(self._equipment.work_dir)
        footprint = Footprint()
        while self._take_token():
            self._receive()  # what a token stands for has always arrived before it
            seq, deadline, document = self._queue.popleft()
            if time.monotonic() > deadline:
                self._channel.hold(wire.frame(wire.EXPIRED, wire.SEQ_BODY.pack(seq)))
                continue
            frame, body = self._run(seq, Workload.model_validate_json(document))
            retire = (
                self._equipment.one_attempt or not self._work_dir.clean() or footprint.reason_to_retire() is not None
            )
            self._capture.take_over()
            self._channel.hold(frame(retire) + body)
            if retire:
                break
            if self._channel.overdue:
                self._channel.flush()
        self._channel.flush()

    def _take_token(self) -> bool:
        """Wait for leave to begin the next workload; False when there will be none."""
        poll: select.poll | None = None
        while True:
            try:
                return os.read(self._token_fd, 1) != b""
            except BlockingIOError:
                self._channel.flush()
            if poll is None:
                poll = select.poll()
                poll.register(self._token_fd, select.POLLIN)
                poll.register(self._sock, select.POLLIN)
            poll.poll()
            if not self._receive():
                return False

    def _receive(self) -> bool:
        """Take in what the socket holds; False when the executor closed it."""
        while True:
            try:
                data = self._sock.recv(_READ_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:  # it was killed before it had read everything
                return False
            if not data:
                return False
            for kind, body in self._frames.feed(data):
                self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == wire.RUN:
            seq, deadline = wire.RUN_BODY.unpack_from(body)
            self._queue.append((seq, deadline, body[wire.RUN_BODY.size :]))
        elif kind == wire.DISCARD:
            (first,) = wire.SEQ_BODY.unpack(body)
            while self._queue and self._queue[-1][0] >= first:
                self._queue.pop()

    def _run(self, seq: int, workload: Workload) -> tuple[Finish, bytes]:
        """Run one attempt; returns its FINISHED frame but for the flag whether the process retires."""
        mask = Masker(workload.secrets.values()) if workload.secrets else _NO_SECRETS
        self._prepare_path(workload)
        self._capture.begin(
            LogBuffer(
                lambda chunk: self._send_chunk(seq, chunk),
                log_max=workload.limits.log_max,
                mask=mask,
                area=self._equipment.area,
                number=seq,
            )
        )
        started = time.time()
        report = self._channel.hold if workload.type in _INSTANT else self._channel.send
        report(wire.frame(wire.STARTED, wire.STARTED_BODY.pack(seq, started, time.monotonic())))
        outcome, output, error = Outcome.FAILED, None, None
        try:
            self._termination.begin()
            with memory_limit(workload.limits.memory):
                result = run_attempt(
                    workload,
                    work_dir=self._equipment.work_dir,
                    bundle_dir=self._bundle_dir,
                    log=self._capture.line,
                    mask=mask,
                )
            outcome, output, error = result.outcome, result.output, result.error
        except Terminated:  # it struck outside the node's own code
            pass
        finally:
            self._termination.end()
        self._capture.end()
        body = (output or "").encode() if outcome is Outcome.SUCCESS else b""
        if error is not None:
            body = json.dumps(error.as_document()).encode()
        return Finish(seq, outcome, started, time.time(), len(body)), body

    def _prepare_path(self, workload: Workload) -> None:
        """The bundle is first on the path; a process serves only one bundle."""
        if self._bundle_dir is None and workload.bundle is not None:
            self._bundle_dir = self._equipment.bundles_dir / workload.bundle
            sys.path.insert(0, str(self._bundle_dir))

    def _send_chunk(self, seq: int, chunk: Chunk) -> None:
        head = wire.LOG_BODY.pack(
            seq, chunk.chunk_no, chunk.first_seq, chunk.lines, chunk.raw_bytes, chunk.truncated_bytes
        )
        self._channel.send(wire.frame(wire.LOG, head + chunk.data))


@dataclass(frozen=True, slots=True)
class Finish:
    """The head of a FINISHED frame."""

    seq: int
    outcome: Outcome
    started: float
    finished: float
    length: int

    def __call__(self, retire: bool) -> bytes:
        """The bytes before the body."""
        code = wire.OUTCOMES.index(self.outcome.value)
        head = wire.FINISHED_BODY.pack(self.seq, code, retire, self.started, self.finished)
        return wire.HEADER.pack(len(head) + self.length, wire.FINISHED) + head


class WorkDir:
    """The working directory of attempts, empty at the start of each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def clean(self) -> bool:
        """Empty it; False when that is not possible, so that the process cannot be used again."""
        try:
            for name in os.listdir(self._path):  # noqa: PTH208 - hot path, nearly always empty
                entry = self._path / name
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError:
            return False
        return True


@contextmanager
def memory_limit(limit: int | None) -> Iterator[None]:
    """Let the data segment grow by at most `limit` bytes, so that most breaches become a `MemoryError`."""
    if limit is None or not sys.platform.startswith("linux"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - hot path
        data = int(file.read().split()[5]) * resource.getpagesize()
    wanted = data + limit
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def end_group() -> None:
    """End this process and everything in its group: nobody would hear of its results."""
    with suppress(OSError):
        os.killpg(os.getpid(), 9)
    os._exit(1)

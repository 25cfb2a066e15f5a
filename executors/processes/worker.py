"""A runner process: takes workloads from its socket, runs one after the other, reports.

The executor writes frames to the socket and, once a frame is through, one byte per workload to the **token pipe**. A
runner takes a token before each attempt; the executor takes tokens back to withdraw workloads that have not begun. One
byte of a pipe is read by exactly one side, so both always agree on what has begun.
"""

from __future__ import annotations

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

from agentflow.runner import AttemptResult, run_attempt, wire
from agentflow.runner.capture import Capture
from agentflow.runner.hygiene import Footprint
from agentflow.runner.logs import LogBuffer
from agentflow.runner.masking import Masker
from agentflow.runner.reports import Finish, expired_frame, log_frame, started_frame
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
                self._channel.hold(expired_frame(seq))
                continue
            finish = self._run(seq, Workload.model_validate_json(document))
            retire = (
                self._equipment.one_attempt or not self._work_dir.clean() or footprint.reason_to_retire() is not None
            )
            self._capture.take_over()
            self._channel.hold(finish.frame(retire=retire))
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

    def _run(self, seq: int, workload: Workload) -> Finish:
        """Run one attempt."""
        mask = Masker(hidden.values()) if (hidden := workload.hidden) else _NO_SECRETS
        self._prepare_path(workload)
        self._capture.begin(
            LogBuffer(
                lambda chunk: self._channel.send(log_frame(seq, chunk)),
                log_max=workload.log_left,
                mask=mask,
                area=self._equipment.area,
                number=seq,
                first_chunk=workload.turn.chunks,
                first_seq=workload.turn.lines + 1,
            )
        )
        started = time.time()
        report = self._channel.hold if workload.type in _INSTANT else self._channel.send
        report(started_frame(seq, started, time.monotonic()))
        result = AttemptResult(Outcome.FAILED)
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
        except Terminated:  # it struck outside the node's own code
            pass
        finally:
            self._termination.end()
        self._capture.end()
        return Finish(seq, result, started, time.time())

    def _prepare_path(self, workload: Workload) -> None:
        """The bundle is first on the path; a process serves only one bundle."""
        if self._bundle_dir is None and workload.bundle is not None:
            self._bundle_dir = self._equipment.bundles_dir / workload.bundle
            sys.path.insert(0, str(self._bundle_dir))


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

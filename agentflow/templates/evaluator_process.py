"""One child of the evaluator: its process, its pipes, its deadlines."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentflow.templates.framing import FrameReader

#: Variables of our environment that the child gets: where Python and its modules are, the locale, the time zones.
ALLOWED_ENVIRONMENT = frozenset(
    {
        "PATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPYCACHEPREFIX",
        "PYTHONTZPATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZDIR",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
    }
)

_CHUNK = 2**18  # bytes per read and write
_STOP_GRACE = 1.0  # seconds for a child whose stdin has ended


class ChildGone(Exception):
    """The child ended although it owes an answer; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class ChildSilent(Exception):
    """The child gave no sign of life until the deadline; it has been killed."""

    def __init__(self) -> None:
        super().__init__("no answer in time")


class EvaluatorProcess:
    """A running child. Answers come in the order of the requests."""

    def __init__(self, *, seconds: float, memory: int, environment: Mapping[str, str] = os.environ) -> None:
        """Start the process; it needs a moment until `wait_ready` returns.

        Args:
            seconds: CPU time of one expression.
            memory: Bytes of address space.
            environment: What to take the allowed variables from.

        Raises:
            OSError: The process could not be started.
        """
        command = [sys.executable, "-P", "-m", "agentflow.templates.evaluator_child", str(seconds), str(memory)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={name: value for name, value in environment.items() if name in ALLOWED_ENVIRONMENT},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        os.set_blocking(self._answers.fileno(), False)
        self._reader = FrameReader()
        self._ready = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_ready(self, timeout: float) -> None:
        """Wait until it has imported what it needs; at once when it has said so before.

        Raises:
            ChildGone: It ended instead.
            ChildSilent: It took longer than `timeout` seconds.
        """
        if not self._ready:
            for _ in self.exchange([], 1, timeout):
                self._ready = True

    def exchange(self, frames: Sequence[bytes], expected: int, silence: float) -> Iterator[Any]:
        """Send frames and yield the answers as they come.

        Args:
            frames: What to send.
            expected: How many answers to wait for.
            silence: Seconds without any byte moved after which the child is killed.

        Raises:
            ChildGone: It ended before the last answer.
            ChildSilent: It was killed for its silence.
        """
        unsent = memoryview(b"".join(frames))
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if unsent:
                selector.register(self._requests, selectors.EVENT_WRITE)
            deadline = time.monotonic() + silence
            while expected:
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    self.kill()
                    raise ChildSilent
                deadline = time.monotonic() + silence
                for key, _ in events:
                    if key.fileobj is self._requests:
                        unsent = self._send(unsent)
                        if not unsent:
                            selector.unregister(self._requests)
                        continue
                    for answer in self._reader.feed(self._receive()):
                        expected -= 1
                        yield answer

    def _send(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._requests.fileno(), unsent[:_CHUNK]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            return unsent[:0]  # what it had answered before is still to be read; then comes the end of the stream

    def _receive(self) -> bytes:
        try:
            data = os.read(self._answers.fileno(), _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # its output ends a moment before its exit code is known
                self._process.wait(_STOP_GRACE)
            self.kill()
            raise ChildGone(self._process.returncode)
        return data

    def kill(self) -> None:
        """Kill it if it still runs, and let go of its pipes."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()

    def stop(self) -> None:
        """End it in peace: it leaves when its stdin ends."""
        self._requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_GRACE)
        self.kill()

"""Stop signals as something a loop can wait for, next to other file descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: A second signal sooner than this is the same wish: make and uv pass on what the terminal has sent already.
SAME_WISH = 0.5  # seconds


class StopRequested(BaseException):
    """Raised inside `interruptible` blocks; not an Exception, so that no handler of errors swallows it."""


class StopSignals:
    """Takes SIGINT, SIGTERM, SIGHUP and SIGCHLD while its `with` block lasts (main thread only)."""

    def __init__(self, on_insist: Callable[[], None]) -> None:
        """`on_insist`: called at the second stop signal."""
        self.requested = False
        self._on_insist = on_insist
        self._interruptible = False
        self._first = 0.0
        self._pipe = (-1, -1)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        for number in STOP:
            # nohup means it; a shell that starts us with & ignores SIGINT for us, but `kill -INT` shall work.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._wake)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        for end in self._pipe:
            os.close(end)

    def fileno(self) -> int:
        """Readable after any of the signals."""
        return self._pipe[0]

    def drain(self) -> None:
        """Make `fileno` unreadable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._pipe[0], 1024):
                pass

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Long work that a stop signal ends at once.

        Raises:
            StopRequested: A stop was asked for before or meanwhile.
        """
        self._interruptible = True
        try:
            if self.requested:
                raise StopRequested
            yield
        finally:
            self._interruptible = False

    def _wake(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe[1], b"\0")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._wake()
        if not self.requested:
            self.requested = True
            self._first = time.monotonic()
            if self._interruptible:
                self._interruptible = False
                raise StopRequested
        elif time.monotonic() - self._first > SAME_WISH:
            self._on_insist()

"""SIGTERM as an exception in the running node, so that its `finally` blocks and context managers clean up.

The executor sends SIGTERM on cancel, timeout and shutdown, and SIGKILL after the grace.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType


class Terminated(BaseException):
    """The attempt was asked to stop."""


class Termination:
    """Handles SIGTERM of a runner process: raises while a node runs, waits while our own code must not be torn."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._active = False
        self._shields = 0
        self._pending = False
        self._cleaning = False

    def install(self) -> None:
        """Become the handler of SIGTERM (main thread only); forked children get the default back."""
        signal.signal(signal.SIGTERM, self.handle)
        os.register_at_fork(after_in_child=self._restore_default)

    def begin(self) -> None:
        """From here on a SIGTERM raises `Terminated`."""
        self._active = True
        self._cleaning = True

    def end(self) -> None:
        """The node is over; a SIGTERM now ends the process."""
        self._active = False
        self._cleaning = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del number, frame
        self._pending = True
        if not self._shields:
            self._act()

    def __enter__(self) -> None:
        """Shield our own code from being torn in the middle of a message ; other threads are never torn."""
        if threading.get_ident() == self._main:
            self._shields += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the shield; a signal that came meanwhile counts now."""
        if threading.get_ident() != self._main:
            return
        self._shields -= 1
        if self._pending and not self._shields and error is None:
            self._act()

    def _act(self) -> None:
        self._pending = False
        if self._active:
            self._active = False  # once: cleaning up must not be interrupted by a second one
            raise Terminated
        if not self._cleaning:
            self._restore_default()
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore_default(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self.handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

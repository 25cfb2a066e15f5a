"""Finds the step that blocks an event loop, and ends it.

The loop winds two clocks up each second while there is work. If it does not for BLOCKED_MAX seconds, SIGALRM raises
`LoopBlocked` in the step that is running: its attempt fails, its neighbours go on. If C code does not let Python's
handler run, or the step goes on all the same, the second clock ends the process, without the interpreter's help, and
all its attempts are lost.
"""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

BLOCKED_MAX: Final = 4.0  # seconds; less than the grace after which an executor kills what does not stop
GIVE_UP: Final = 8.0  # seconds
_BEAT: Final = 1.0  # seconds
_AGAIN: Final = 0.2  # seconds until the next try, if our own code was running


class LoopBlocked(BaseException):
    """The node kept the event loop of an I/O lane busy for seconds, in which no other node of it could go on."""

    def __init__(self) -> None:
        super().__init__(
            f"the node kept its process busy for {BLOCKED_MAX:g} s without a pause and held up the other nodes "
            "in it; simplify its templates, or set `resources.memory` or `executor: subprocess`, which give it a "
            "process of its own"
        )


class Watchdog:
    """For the process's main thread."""

    def __init__(self, may_end: Callable[[], bool]) -> None:
        """`may_end` tells whether the step that runs now is a node's."""
        self._may_end = may_end
        self._timer: TimerHandle | None = None
        signal.signal(signal.SIGALRM, self._on_alarm)

    def start(self, loop: AbstractEventLoop) -> None:
        """Watch a loop from now on."""
        if self._timer is None:
            self._beat(loop)

    def stop(self) -> None:
        """There is nothing to do, so nothing can block."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()

    def _beat(self, loop: AbstractEventLoop) -> None:
        signal.setitimer(signal.ITIMER_REAL, BLOCKED_MAX, _AGAIN)
        faulthandler.dump_traceback_later(GIVE_UP, exit=True, file=2)
        self._timer = loop.call_later(_BEAT, self._beat, loop)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._may_end():
            signal.setitimer(signal.ITIMER_REAL, BLOCKED_MAX, _AGAIN)
            raise LoopBlocked

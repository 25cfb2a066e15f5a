"""Keeps child programs running: starts them, restarts the dead with growing pauses, stops them together (ENGINE 15).

The supervisor imports none of its programs: each is `python -m agentflow.supervisor MODULE`, which asks the kernel to
end it with its supervisor (Linux) and becomes the module.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from agentflow.errors import UsageError

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.5  #: Seconds before the first restart; doubles with each failure in a row.
LONGEST_PAUSE = 30.0  # seconds
STEADY = 60.0  #: Seconds after which a program counts as healthy and its failures are forgotten.
STOP_GRACE = 4.0  #: Seconds between SIGTERM and SIGKILL.
USAGE = 2  #: Exit code that says: a restart would not help.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """One module to keep running as a process of its own."""

    module: str
    env: Mapping[str, str] = field(default_factory=dict)  #: Added to the supervisor's environment.

    @property
    def command(self) -> Sequence[str]:
        """What is executed."""
        return [sys.executable, "-m", "agentflow.supervisor", str(os.getpid()), self.module]


def restart_pause(failures: int) -> float:
    """Seconds to wait before the restart after so many failures in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))


class ProgramFailed(UsageError):
    """A part of AgentFlow does not start with these settings."""


class _Child:
    """A program and its process, dead or alive."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self.since = 0.0  #: Monotonic time of the last start.
        self.due = 0.0  #: Monotonic time of the next start.

    def start(self, now: float) -> None:
        # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops all in order.
        self.process = subprocess.Popen(
            self.program.command, env=os.environ | dict(self.program.env), stdin=subprocess.DEVNULL, process_group=0
        )
        self.since = now
        logger.info("program_started", extra={"program": self.program.module, "pid": self.process.pid})

    def reap(self, now: float) -> int | None:
        """The exit code if the process has just ended; plans the restart."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        self.failures = 1 if now - self.since >= STEADY else self.failures + 1
        self.due = now + restart_pause(self.failures)
        return code

    def signal(self, number: int) -> None:
        """Signal the program (SIGTERM), or with SIGKILL its whole group."""
        if self.process is None or self.process.poll() is not None:
            return
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


class Supervisor:
    """Runs programs until SIGTERM or SIGINT; call `run` from the main thread.

    Args:
        programs: What to keep running.
        check: Called between looks at the programs; an error it raises stops everything.
        interval: Seconds between calls of `check`.
    """

    def __init__(
        self, programs: Sequence[Program], *, check: Callable[[], None] = lambda: None, interval: float = 1.0
    ) -> None:
        self._children = [_Child(program) for program in programs]
        self._check = check
        self._interval = interval
        self._signals = 0

    def run(self) -> None:
        """Keep the programs running; returns once they are stopped.

        Raises:
            ProgramFailed: A program says that its settings are wrong.
        """
        with self._signals_caught() as wake:
            try:
                while not self._signals:
                    self._tend()
                    self._check()
                    select.select([wake], [], [], self._next_look())
                    _drain(wake)
            finally:
                self._stop(wake)

    def _tend(self) -> None:
        for child in self._children:
            now = time.monotonic()
            code = child.reap(now)
            if code == USAGE:
                raise ProgramFailed(f"{child.program.module} stopped: its settings are wrong (see above)")
            if code is not None:
                pause = round(child.due - now, 1)
                logger.error("program_died", extra={"program": child.program.module, "code": code, "again_in": pause})
            if child.process is None and now >= child.due:
                child.start(now)

    def _next_look(self) -> float:
        now = time.monotonic()
        due = [child.due - now for child in self._children if child.process is None]
        return max(0.0, min([self._interval, *due]))

    def _stop(self, wake: int) -> None:
        """SIGTERM, then SIGKILL after the grace or at a second request."""
        asked = self._signals
        for child in self._children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE
        while self._alive() and time.monotonic() < deadline and self._signals <= max(asked, 1):
            select.select([wake], [], [], max(0.0, deadline - time.monotonic()))
            _drain(wake)
        for child in self._children:
            if child.process is not None:
                if child.process.poll() is None:
                    logger.warning("program_killed", extra={"program": child.program.module})
                child.signal(signal.SIGKILL)
                child.process.wait()

    def _alive(self) -> bool:
        return any(child.process is not None and child.process.poll() is None for child in self._children)

    @contextmanager
    def _signals_caught(self) -> Iterator[int]:
        """Signals (a child's end too) wake the descriptor given; SIGTERM and SIGINT are counted."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        }
        old_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals += 1


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def become(supervisor: int, module: str) -> None:
    """Turn this process into a supervised module: `SIGTERM` when the supervisor dies (Linux), then run."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != supervisor:  # it died before the call
            return
    import runpy

    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2])

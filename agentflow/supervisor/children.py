"""One supervised process: started, started again after it died, ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0  # seconds before a dead child is started again; doubled each time
HEALTHY = 30.0  # seconds of life after which a death counts as the first one again


class Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def after(self, lived: float) -> float:
        """Seconds to wait after a life of `lived` seconds."""
        if lived >= HEALTHY:
            self._next = FIRST_DELAY
        delay, self._next = self._next, min(2 * self._next, LONGEST_DELAY)
        return delay


class Child:
    """A process that is kept alive. All times are of the monotonic clock."""

    def __init__(self, name: str, command: Sequence[str], environment: Callable[[], Mapping[str, str]]) -> None:
        """`environment` is asked at each start."""
        self.name = name
        self._command = list(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._started = 0.0
        self._due: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process is not None else None

    @property
    def due(self) -> float | None:
        """When it is to be started again; None while it lives."""
        return self._due

    def start(self) -> None:
        """Start it now."""
        self._due = None
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # the lifeline: its end tells the child that we are gone (agentflow.lifeline)
            env=dict(self._environment()),
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we pass it on
        )
        logger.info("child_started", extra={"child": self.name, "pid": self._process.pid})

    def tend(self, now: float) -> None:
        """Notice its death, and start it again when that is due."""
        if self._process is not None and self._process.poll() is not None:
            delay = self._backoff.after(now - self._started)
            logger.warning(
                "child_died", extra={"child": self.name, "exit": self._process.returncode, "again_in": delay}
            )
            self.kill()  # what is left of its group
            self._due = now + delay
        if self._due is not None and now >= self._due:
            self.start()

    def terminate(self) -> None:
        """Ask it to end."""
        self._due = None
        if self._process is not None:
            self._process.terminate()

    def wait(self, timeout: float) -> bool:
        """Whether it is gone within `timeout` seconds."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            return False
        self._forget()
        return True

    def kill(self) -> None:
        """End it and its process group at once."""
        self._due = None
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

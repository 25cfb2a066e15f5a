"""File locks (flock) that end with their holder, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Literal

Mode = Literal["shared", "exclusive"]

_FLAGS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}
POLL = 0.02  # seconds


class LockTimeout(OSError):
    """Somebody else held the lock for the whole time allowed."""


class FileLock:
    """An flock on one file. Each instance locks for itself, also within one process; not re-entrant."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._owner = 0

    @property
    def held(self) -> bool:
        """Whether this instance holds the lock in this process (a forked child does not)."""
        return self._fd is not None and self._owner == os.getpid()

    def fileno(self) -> int:
        """The descriptor that carries the lock; a child that inherits it shares the lock."""
        if self._fd is None:
            raise ValueError("the lock is not held")
        return self._fd

    def try_acquire(self, mode: Mode = "exclusive") -> bool:
        """Take the lock, or change its mode, without waiting; on refusal a lock held before may be gone."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._owner = os.getpid()
        try:
            fcntl.flock(self._fd, _FLAGS[mode] | fcntl.LOCK_NB)
        except OSError as error:
            self.hand_over()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def acquire(self, mode: Mode, timeout: float) -> None:
        """Take the lock, waiting up to `timeout` seconds.

        Raises:
            LockTimeout: Somebody else kept it.
        """
        deadline = time.monotonic() + timeout
        while not self.try_acquire(mode):
            if time.monotonic() >= deadline:
                raise LockTimeout(errno.EWOULDBLOCK, "another process holds the lock", str(self.path))
            time.sleep(POLL)

    def release(self) -> None:
        """Give the lock up; in a forked child only the copy of the descriptor is closed. May be called twice."""
        if self._fd is not None and self._owner == os.getpid():
            # Explicitly: closing alone would leave the lock with a child that inherited the descriptor.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.hand_over()

    def hand_over(self) -> None:
        """Close our descriptor only: the lock stays with the children that inherited it, if any."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

"""Finds out whether an attempt left its process as it was; if not, the process is not used again (ENGINE 12).

Every check is a few microseconds, because it runs after each attempt.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import threading
from typing import Any, Final

ATTEMPTS_MAX: Final = 200  # attempts per process
GROWTH_MAX: Final = 100 * 2**20  # bytes of resident memory

#: `signal.getsignal` without its conversion to enum members, which takes ten times as long.
_getsignal: Final = importlib.import_module("_signal").getsignal
_SIGNALS: Final = (
    int(signal.SIGTERM),
    int(signal.SIGINT),
    int(signal.SIGHUP),
    int(signal.SIGALRM),
    int(signal.SIGCHLD),
    int(signal.SIGPIPE),
    int(signal.SIGUSR1),
    int(signal.SIGUSR2),
)
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
_PAGE: Final = resource.getpagesize()


class Footprint:
    """What a process looked like before its first attempt."""

    def __init__(self) -> None:
        self._threads = threading.active_count()
        self._cwd = os.getcwd()  # noqa: PTH109 - hot path, no Path object needed
        self._environ_raw = _raw_environ()
        self._umask = _umask()
        self._handlers = _handlers()
        self._stdio = _stdio()
        self._memory = resident()
        self._attempts = 0

    def reason_to_retire(self) -> str | None:
        """Why this process must not run another attempt; None when it may."""
        self._attempts += 1
        if self._attempts >= ATTEMPTS_MAX:
            return f"{ATTEMPTS_MAX} attempts"
        return self._left_behind() or self._grown()

    def _left_behind(self) -> str | None:
        if threading.active_count() != self._threads:
            return "a live thread"
        if has_children():
            return "a child process"
        try:
            moved = os.getcwd() != self._cwd  # noqa: PTH109
        except OSError:
            moved = True
        if moved:
            return "another working directory"
        if _raw_environ() != self._environ_raw:
            return "a changed environment"
        if _umask() != self._umask:
            return "a changed umask"
        if _handlers() != self._handlers:
            return "a changed signal handler"
        if _stdio() != self._stdio:
            return "changed standard streams"
        return None

    def _grown(self) -> str | None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        if peak - self._memory > GROWTH_MAX and resident() - self._memory > GROWTH_MAX:
            return f"more than {GROWTH_MAX >> 20} MB of growth"
        return None


def has_children() -> bool:
    """Whether a child process lives; ended ones are reaped on the way."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def resident() -> int:
    """Bytes of resident memory of this process now (its peak where the system tells no more)."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - hot path
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _raw_environ() -> dict[bytes, bytes]:
    """The environment without decoding it (the private dict is 50 times faster than the public view)."""
    raw: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
    return dict(os.environb if raw is None else raw)


def _handlers() -> list[Any]:
    return [_getsignal(number) for number in _SIGNALS]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _stdio() -> tuple[int, int, int]:
    try:
        return os.fstat(0).st_ino, os.fstat(1).st_ino, os.fstat(2).st_ino
    except OSError:
        return -1, -1, -1

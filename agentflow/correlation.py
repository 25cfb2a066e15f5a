"""The id that ties what a request did together: its answer, its log lines, the runs it made, their attempts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TRACE = "request_id"  #: Its name in a workload's trace context, and in log lines.
_SANE = re.compile(r"[A-Za-z0-9._:-]{8,128}", re.ASCII)  # goes into headers, logs and the database

_current: ContextVar[str | None] = ContextVar("agentflow_request_id", default=None)


def current() -> str | None:
    """The id in force, if there is one."""
    return _current.get()


def accepted(given: str | None) -> str:
    """An id that somebody gave, if it is one; else a new one."""
    return given if given is not None and _SANE.fullmatch(given) else secrets.token_hex(16)


def bind(request_id: str | None) -> None:
    """Put an id in force for what this thread (or greenlet, or task) does from now on."""
    _current.set(request_id)


@contextmanager
def bound(request_id: str | None) -> Iterator[None]:
    """Put an id in force for a block."""
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)

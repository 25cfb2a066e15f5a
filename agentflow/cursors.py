"""Cursors of pages: opaque to clients, checked when they come back."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import TypeVar

from agentflow.errors import UsageError

Key = TypeVar("Key", str, int, uuid.UUID)

_MAX_LENGTH = 1000  #: Characters.
_MAX_BIGINT = 2**63 - 1


def big_int(text: str) -> int:
    """A key that Postgres' bigint can hold.

    Raises:
        ValueError: It is not one.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MAX_BIGINT):
        raise ValueError(text)
    return int(text)


def write_cursor(kind: str, last: str | int | uuid.UUID) -> str:
    """Where a page ended: the key of its last item. `kind` keeps the cursors of different lists apart."""
    document = json.dumps([kind, str(last)], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).rstrip(b"=").decode()


def read_cursor(kind: str, cursor: str, key: Callable[[str], Key]) -> Key:
    """The key in a cursor that `write_cursor` made for the same kind of list.

    Args:
        kind: As it was written.
        cursor: What the client gave back.
        key: Reads the key: `str`, `big_int`, `uuid.UUID`.

    Raises:
        UsageError: It is not one.
    """
    try:
        return key(_last(kind, cursor))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{cursor[:100]!r} is not a cursor of this list.", hint="take `next_cursor` of the page before"
        ) from error


def _last(kind: str, cursor: str) -> str:
    if len(cursor) > _MAX_LENGTH:
        raise ValueError(cursor)
    made_for, last = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    if made_for != kind or not isinstance(last, str) or "\0" in last:
        raise ValueError(cursor)
    last.encode()  # half a surrogate pair has no place in a statement
    return last

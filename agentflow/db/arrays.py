"""Python lists as Postgres array literals.

A list parameter is typed by its contents (small ints become int2[], larger ones int4[]), and each type is another
prepared statement. A text literal that the statement casts keeps one plan and costs less to send.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

#: After a list of keys whose rows are updated, or joined by key: the planner then takes the list for one row, and finds
#: each by its key. By itself it guesses ten, and a table that its statistics take for smaller than that is read with
#: all rows of the runs, once for all keys or even once for each, however large the run is that has just been made.
ONE_BY_ONE = "LIMIT (SELECT 2147483647)"


def ints(values: Iterable[int | None]) -> str:
    """`{1,2,NULL}` for `CAST(… AS int[])`."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def uuids(values: Iterable[uuid.UUID | None]) -> str:
    """`{0190…,…}` for `CAST(… AS uuid[])`."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def times(values: Iterable[datetime | None]) -> str:
    """`{"2026-…",…}` for `CAST(… AS timestamptz[])`."""
    return "{" + ",".join("NULL" if value is None else f'"{value.isoformat()}"' for value in values) + "}"


def blobs(values: Iterable[bytes]) -> str:
    r"""`{"\\xAB…",…}` for `CAST(… AS bytea[])`."""
    return "{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}"


def words(values: Iterable[str]) -> str:
    """`{ready,…}` for `CAST(… AS text[])`; only for words of ours (no blanks, quotes or commas)."""
    return "{" + ",".join(values) + "}"

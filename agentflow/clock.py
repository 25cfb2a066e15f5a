"""A replaceable wall clock for code outside the engine's SQL (the engine reads the database's clock)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

#: Anything that answers "what time is it", in UTC.
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with microseconds and a `Z`, as every interface prints times."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Moments as people write them: ISO 8601, in the trigger's zone unless an offset is given."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, tzinfo

from agentflow.triggers.base import Note
from agentflow.triggers.errors import invalid
from agentflow.triggers.zones import resolve_local

_HINT = "write 2026-12-01T09:00:00Z, or 2026-12-01T09:00 in the trigger's time zone"


def read_moment(value: object, zone: tzinfo, *, path: str) -> tuple[datetime, Note | None]:
    """The instant in UTC, and what a clock change does to it. A date alone is its midnight.

    Raises:
        InvalidTrigger: The value is not a moment; `path` is the key it belongs to.
    """
    moment = _parse(value, path)
    try:
        if moment.tzinfo is not None:
            return moment.astimezone(UTC), None
        instant, note = resolve_local(zone, moment)
    except OverflowError:
        raise invalid(path, f"{value} is out of range", "years 2 to 9998") from None
    return instant.replace(tzinfo=UTC), note


def _parse(value: object, path: str) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if not isinstance(value, str):
        raise invalid(path, f"a moment is text, not {type(value).__name__}", _HINT)
    try:
        return datetime.fromisoformat(value.strip().replace("z", "Z"))
    except ValueError:
        raise invalid(path, f"{value[:80]!r} is not a moment", _HINT) from None

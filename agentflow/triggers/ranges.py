"""The fires of a trigger within a range of dates, forwards or backwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from agentflow.triggers.base import MICROSECOND, Trigger
from agentflow.triggers.missed import latest_fire
from agentflow.triggers.moments import read_moment
from agentflow.triggers.zones import load_zone

_DAY = timedelta(days=1)


def read_range(config: Mapping[str, Any], first: object, last: object) -> tuple[datetime, datetime]:
    """The two ends of a range as people write them, in UTC: both are included.

    Moments without an offset are in the trigger's zone. A date alone is its midnight as the first one, and its whole
    day as the last one.

    Raises:
        InvalidTrigger: One of them is not a moment; the problem's path is `from` or `to`.
    """
    zone = load_zone(config.get("timezone") or "UTC")
    return read_moment(first, zone, path="from")[0], _read_last(last, zone)


def _read_last(value: object, zone: tzinfo) -> datetime:
    day = _as_date(value)
    if day is None:
        return read_moment(value, zone, path="to")[0]
    return read_moment(datetime.combine(day + _DAY, time()), zone, path="to")[0] - MICROSECOND


def _as_date(value: object) -> date | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None


def fires_between(
    trigger: Trigger, first: datetime, last: datetime, *, reverse: bool = False, reached: datetime | None = None
) -> Iterator[datetime]:
    """The fires in `[first, last]` in order, or the latest first; `reached` goes on behind that one."""
    if reverse:
        until = last if reached is None else min(last, reached - MICROSECOND)
        while (fire := _latest(trigger, first, until)) is not None:
            yield fire
            until = fire - MICROSECOND
        return
    after = first - MICROSECOND if reached is None else max(first - MICROSECOND, reached)
    fire = trigger.next_fire(after.astimezone(UTC))
    while fire is not None and fire <= last:
        yield fire
        fire = trigger.next_fire(fire)


def _latest(trigger: Trigger, first: datetime, until: datetime) -> datetime | None:
    """Looked for close by first: the search halves what it is given down to a microsecond."""
    after = first - MICROSECOND
    for width in (timedelta(hours=1), _DAY, 32 * _DAY):
        if until - width > after:
            fire = latest_fire(trigger, until - width, until)
            if fire is not None:
                return fire
    return latest_fire(trigger, after, until)

"""Every so many calendar days, weeks, months or years, at a time of day: `{every: {months: 1}, at: "06:00"}`.

The dates are counted from an anchor, so restarts never shift them: the date of `start`, else 5 January 1970 (a Monday)
for days and weeks and 1 January 1970 for months and years. A month without the anchor's day is left out.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from agentflow.triggers.base import Bounds, Note, Trigger
from agentflow.triggers.errors import invalid
from agentflow.triggers.zones import offset, resolve_local

_UNITS = ("years", "months", "weeks", "days")
_MOST = {"years": 100, "months": 1200, "weeks": 5200, "days": 36_500}
_HINT = "write every: {months: 1}, with years, months, weeks or days"
_MONTH = 30.436875  # days, on average
_LAST_YEAR = 9000


@dataclass(frozen=True, slots=True)
class Step:
    """The distance from one date to the next."""

    months: int
    days: int

    @property
    def average(self) -> float:
        """Days."""
        return self.months * _MONTH + self.days


def read_step(value: object) -> Step:
    """`{months: 1}` and its like.

    Raises:
        InvalidTrigger: It is not one.
    """
    if not isinstance(value, dict) or not value:
        raise invalid("every", "a calendar trigger counts in calendar units", _HINT)
    for unit, count in value.items():
        if unit not in _UNITS:
            raise invalid("every", f"{str(unit)[:40]!r} is not a calendar unit", _HINT)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST[unit]:
            raise invalid("every", f"{unit} must be a whole number from 1 to {_MOST[unit]:,}", _HINT)
    return Step(value.get("years", 0) * 12 + value.get("months", 0), value.get("weeks", 0) * 7 + value.get("days", 0))


def read_time_of_day(value: object) -> time:
    """`06:00`, `06:00:30`.

    Raises:
        InvalidTrigger: It is not a time of day.
    """
    hint = 'write at: "06:00", in the trigger\'s time zone'
    if not isinstance(value, str):
        raise invalid("at", "a time of day is text", hint)
    try:
        found = time.fromisoformat(value.strip())
    except ValueError:
        raise invalid("at", f"{value[:40]!r} is not a time of day", hint) from None
    if found.tzinfo is not None or ":" not in value:
        raise invalid("at", f"{value[:40]!r} is not a plain time of day", hint)
    return found


class CalendarTrigger(Trigger):
    """Fires on the dates `anchor + n * step`. A time that a clock change skips is right after it, a doubled one the first."""

    def __init__(self, step: Step, at: time, zone: tzinfo, bounds: Bounds | None = None) -> None:
        super().__init__(bounds or Bounds())
        self._step = step
        self._at = at
        self._zone = zone
        start = self._bounds.start
        default = date(1970, 1, 1) if step.months else date(1970, 1, 5)
        self._anchor = start.astimezone(zone).date() if start is not None else default

    def note(self, at: datetime) -> Note | None:
        """How a clock change concerns the fire at this instant."""
        instant = at.astimezone(UTC).replace(tzinfo=None)
        wall = (instant + offset(self._zone, instant)).date()
        return resolve_local(self._zone, datetime.combine(wall, self._at))[1]

    def _fire_after(self, after: datetime) -> datetime | None:
        # Two steps early: averages are off by a few days, and the offset by one.
        number = max(0, int((after.date() - self._anchor).days / self._step.average) - 2)
        while True:
            day = self._date(number)
            if day is not None:
                if day.year > _LAST_YEAR:
                    return None
                fire = resolve_local(self._zone, datetime.combine(day, self._at))[0]
                if fire > after:
                    return fire
            number += 1

    def _date(self, number: int) -> date | None:
        months = self._anchor.year * 12 + self._anchor.month - 1 + self._step.months * number
        year, month = divmod(months, 12)
        if year > _LAST_YEAR:
            return date(_LAST_YEAR + 1, 1, 1)
        if self._anchor.day > calendar.monthrange(year, month + 1)[1]:
            return None
        return date(year, month + 1, self._anchor.day) + timedelta(days=self._step.days * number)

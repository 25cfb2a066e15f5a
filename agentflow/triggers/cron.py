"""Cron as Debian's cron means it, in any time zone, on cronsim's search for the next matching minute.

cronsim searches in local time without a zone; what a clock change does to the result is decided here, because
cronsim 2.8 on zoned times is wrong in places (shown in tests/unit/test_cron_reference.py: half-hour changes, changes
at midnight, a start within the repeated hour). A zone's time is a row of stretches with one offset each:

- An expression whose minute or hour begins with `*` follows real time: within each stretch it fires at each matching
  local minute. Minutes that a change skips never come, minutes that come twice fire twice.
- Any other expression means a time of day. Minutes that a change skips fire once, together, right after it; minutes
  that come a second time do not fire again.
- Jumps of more than three hours are no daylight saving: nothing is made up, nothing is held back.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime, time, timedelta, tzinfo

from cronsim import CronSim

from agentflow.triggers.base import MICROSECOND, Bounds, Note, Trigger
from agentflow.triggers.expression import CronExpression
from agentflow.triggers.zones import is_repeated, last_change, next_change, offset

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_SOME_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 - local time; each search sets its own start


class CronTrigger5(Trigger):
    """Fires at the minutes a five-field expression names in a time zone."""

    def __init__(self, expression: CronExpression, zone: tzinfo = UTC, bounds: Bounds | None = None) -> None:
        super().__init__(bounds or Bounds())
        self._expression = expression
        self._zone = zone
        self._time_of_day = not expression.follows_elapsed_time
        self._minutes = _minutes_of(expression)

    def note(self, at: datetime) -> Note | None:
        """`dst-gap`: a skipped local time, made up for; `dst-overlap`: a local time that happens twice."""
        instant = at.astimezone(UTC).replace(tzinfo=None)
        if self._makes_up_at(instant):
            return "dst-gap"
        return "dst-overlap" if is_repeated(self._zone, instant) else None

    def _fire_after(self, after: datetime) -> datetime | None:
        instant = after.replace(microsecond=0) + _SECOND  # fires are whole seconds: look from here on, inclusive
        while True:
            if self._makes_up_at(instant):
                return instant
            ahead = offset(self._zone, instant)
            minute = self._first_minute(self._skip_repeated(instant, instant + ahead))
            if minute is None:
                return None
            fire = minute - ahead
            change = next_change(self._zone, instant, fire)
            if change is None:
                return fire
            instant = change.at  # another offset by then: look again from the change on

    def _count(self, first: datetime, last: datetime) -> int:
        """Whole days far from clock changes are counted by their fields alone."""
        found, at = 0, first
        each = len(self._expression.minutes) * len(self._expression.hours)
        while at <= last:
            ahead = offset(self._zone, at)
            wall = at + ahead
            midnight = datetime.combine(wall.date() + _DAY, time())
            end = midnight - ahead
            whole = wall == midnight - _DAY and end <= last and next_change(self._zone, at - _DAY, end) is None
            if not whole:
                found += super()._count(at, min(end - MICROSECOND, last))
            elif self._expression.fires_on(wall.date()):
                found += each
            at = end
        return found

    def _makes_up_at(self, instant: datetime) -> bool:
        """Whether a change at this instant skipped minutes that this trigger names."""
        change = last_change(self._zone, instant) if self._time_of_day else None
        if change is None or change.at != instant or not change.is_dst:
            return False
        skipped = self._first_minute(instant + change.before)
        return skipped is not None and skipped < instant + change.after

    def _skip_repeated(self, instant: datetime, wall: datetime) -> datetime:
        """The local time to search from: behind what was there before the clock went back."""
        change = last_change(self._zone, instant) if self._time_of_day else None
        return max(wall, change.at + change.before) if change is not None and change.is_dst else wall

    def _first_minute(self, wall: datetime) -> datetime | None:
        """The first matching local minute from `wall` on; None if 50 years have none."""
        search = copy(self._minutes)
        search.dt = wall - _SECOND
        return next(search, None)


def _minutes_of(expression: CronExpression) -> CronSim:
    """The search for the expression as we read it: cronsim would take `1-1/2` for `1/2`."""
    fields = (expression.minutes, expression.hours, expression.days, expression.months, expression.weekdays)
    search = CronSim(" ".join(",".join(map(str, sorted(values))) for values in fields), _SOME_DAY)
    search.day_and = expression.needs_both_days
    return search

"""What every time trigger is: an APScheduler trigger that computes in UTC."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from apscheduler.triggers.base import BaseTrigger

#: How a clock change moved or doubled a fire, for people who ask when a workflow runs next.
Note = Literal["dst-gap", "dst-overlap"]

MICROSECOND = timedelta(microseconds=1)
#: Date arithmetic stays clear of the years 1 and 9999.
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The time in which a trigger is allowed to fire, both ends included; None is open."""

    start: datetime | None = None
    end: datetime | None = None


class Trigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 has no annotations
    """Answers when it fires next. Immutable: every question carries its own instant."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    @abstractmethod
    def _fire_after(self, after: datetime) -> datetime | None:
        """The first fire later than `after`, whatever the bounds; both are naive UTC."""

    def note(self, at: datetime) -> Note | None:  # noqa: ARG002 - most triggers know no local time
        """How a clock change concerns the fire at this instant."""
        return None

    def next_fire(self, after: datetime) -> datetime | None:
        """The first fire later than `after`, in UTC; None when there is none any more.

        Raises:
            ValueError: `after` has no time zone.
        """
        if after.tzinfo is None:
            raise ValueError(f"{after.isoformat()} has no time zone")
        after = max(after.astimezone(UTC), _EARLIEST)
        if self._bounds.start is not None:
            after = max(after, self._bounds.start - MICROSECOND)
        if after > _LATEST:
            return None
        naive = _fire_after(self, after.replace(tzinfo=None))
        fire = naive.replace(tzinfo=UTC) if naive is not None else None
        if fire is not None and self._bounds.end is not None and fire > self._bounds.end:
            return None
        return fire

    def count(self, first: datetime, last: datetime) -> int:
        """How many fires lie in `[first, last]`; cheap for the triggers that may have millions of them."""
        first, last = max(first.astimezone(UTC), _EARLIEST), min(last.astimezone(UTC), _LATEST)
        if self._bounds.start is not None:
            first = max(first, self._bounds.start)
        if self._bounds.end is not None:
            last = min(last, self._bounds.end)
        return self._count(first.replace(tzinfo=None), last.replace(tzinfo=None)) if first <= last else 0

    def _count(self, first: datetime, last: datetime) -> int:
        """The fires in `[first, last]`, whatever the bounds; both are naive UTC."""
        found, fire = 0, self._fire_after(first - MICROSECOND)
        while fire is not None and fire <= last:
            found, fire = found + 1, self._fire_after(fire)
        return found

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """APScheduler's question: the successor of the previous fire, or the first fire from `now` on."""
        # To UTC before any arithmetic: a zoned time forgets which of two equal local times it is (`fold`).
        return self.next_fire(previous_fire_time or now.astimezone(UTC) - MICROSECOND)


@lru_cache(maxsize=4096)
def _fire_after(trigger: Trigger, after: datetime) -> datetime | None:
    """Remembered: of ten thousand workflows that are due in the same minute, most have one of a few schedules."""
    return trigger._fire_after(after)  # noqa: SLF001 - of this module

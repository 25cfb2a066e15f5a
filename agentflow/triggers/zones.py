"""Time zones: names checked, clock changes found, local times turned into instants. Instants are naive UTC inside.

`zoneinfo` does not list a zone's transitions, so they are found by looking at the offset day by day and halving; a
year of a zone is looked at once per process.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from agentflow.triggers.base import Note
from agentflow.triggers.errors import invalid

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
#: Debian cron takes larger jumps of the clock for corrections (Samoa's skipped 30 December 2011) and makes up nothing.
LARGEST_DST_JUMP = timedelta(hours=3)
_NOT_ZONES = {"localtime", "Factory", "posixrules"}  # present in the folder, but different on each machine


@dataclass(frozen=True, slots=True)
class Change:
    """A moment at which a zone's clocks jump."""

    at: datetime  #: Naive UTC: the first instant with the new offset.
    before: timedelta  #: Offset until then.
    after: timedelta  #: Offset from then on.

    @property
    def is_dst(self) -> bool:
        """Whether the jump is small enough to be a daylight saving change."""
        return abs(self.after - self.before) <= LARGEST_DST_JUMP


def load_zone(name: object, *, path: str = "timezone") -> tzinfo:
    """The zone with this IANA name.

    Raises:
        InvalidTrigger: There is none; the hint has the nearest names.
    """
    if name == "UTC":
        return UTC  # also where no zone database is installed
    if not isinstance(name, str):
        raise invalid(path, f"a time zone is a name, not {type(name).__name__}", "for example Europe/Berlin")
    if name in _NOT_ZONES or name not in _zone_names():
        raise invalid(path, f"the time zone {name[:80]!r} is not known", _nearest(name[:80]))
    return ZoneInfo(name)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def _nearest(name: str) -> str:
    known = {zone.lower(): zone for zone in _zone_names() - _NOT_ZONES}
    cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(known.values(), reverse=True)}
    wanted = name.lower().replace(" ", "_")
    exact = known.get(wanted) or cities.get(wanted)
    if exact:
        return f"did you mean {exact}?"
    matches = difflib.get_close_matches(wanted, known, n=2, cutoff=0.7)
    if matches:
        return f"did you mean {' or '.join(known[match] for match in matches)}?"
    return "use an IANA name such as Europe/Berlin, or UTC"


def offset(zone: tzinfo, instant: datetime) -> timedelta:
    """What a clock in the zone is ahead of UTC at an instant."""
    return instant.replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta(0)


def next_change(zone: tzinfo, after: datetime, until: datetime) -> Change | None:
    """The first clock change with `after < at <= until`."""
    if isinstance(zone, timezone):  # a fixed offset
        return None
    for year in range(after.year, until.year + 1):
        for change in _changes(zone, year):
            if after < change.at <= until:
                return change
    return None


def last_change(zone: tzinfo, until: datetime) -> Change | None:
    """The latest clock change of the day that ends at `until` (included)."""
    if isinstance(zone, timezone):
        return None
    found = None
    for year in range((until - _DAY).year, until.year + 1):
        for change in _changes(zone, year):
            if until - _DAY < change.at <= until:
                found = change
    return found


@lru_cache(maxsize=8192)
def _changes(zone: tzinfo, year: int) -> tuple[Change, ...]:
    return tuple(_find_changes(zone, datetime(year, 1, 1), datetime(year + 1, 1, 1)))  # noqa: DTZ001 - naive UTC


def _find_changes(zone: tzinfo, start: datetime, end: datetime) -> Iterator[Change]:
    """The changes at `start <= at < end`."""
    low = start - _SECOND
    before = offset(zone, low)
    while low < end - _SECOND:
        high = min(low + _DAY, end - _SECOND)
        if offset(zone, high) == before:
            low = high
            continue
        while high - low > _SECOND:
            middle = low + (high - low) // _SECOND // 2 * _SECOND
            low, high = (middle, high) if offset(zone, middle) == before else (low, middle)
        after = offset(zone, high)
        yield Change(high, before, after)
        low, before = high, after


def resolve_local(zone: tzinfo, wall: datetime) -> tuple[datetime, Note | None]:
    """The instant (naive UTC) of a local time, and how the clock interferes.

    A time that a change skips is the moment right after it (`dst-gap`); one that happens twice is the first of the two
    (`dst-overlap`).
    """
    early, late = (wall.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta(0) for fold in (0, 1))
    if early < late:  # skipped: the two readings are the offsets before and after the change
        change = next_change(zone, wall - late, wall - early)
        return (change.at if change else wall - early), "dst-gap"
    return wall - early, "dst-overlap" if late < early else None


def is_repeated(zone: tzinfo, instant: datetime) -> bool:
    """Whether the local time at this instant happens twice, on either pass."""
    wall = instant + offset(zone, instant)
    return resolve_local(zone, wall)[1] == "dst-overlap"

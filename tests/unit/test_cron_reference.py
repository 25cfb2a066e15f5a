"""Cron triggers against a slow, independent reference: Debian cron's main loop, walked minute by minute in real time.

The reference knows nothing of time zones but what the local clock shows at each minute. It keeps Debian's *virtual
time* and reacts to jumps of the clock as `cron.c` does; it reads expressions with its own little parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.triggers import build

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a local clock
BIGGEST_CHANGE = 180  # minutes: "clock changes of more than 3 hours are considered to be corrections", crontab(5)
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Reference:
    """One expression and the fires of Debian's loop."""

    def __init__(self, cron: str) -> None:
        texts = cron.split()
        self.minute, self.hour, self.day, self.month, weekdays = (
            self._read(text, *bounds) for text, bounds in zip(texts, FIELDS, strict=True)
        )
        self.weekday = {number % 7 for number in weekdays}
        self.both_days = texts[2].startswith("*") or texts[4].startswith("*")
        self.wild = texts[0].startswith("*") or texts[1].startswith("*")

    @staticmethod
    def _read(text: str, low: int, high: int) -> set[int]:
        found = set()
        for term in text.split(","):
            span, _, step = term.partition("/")
            first, _, last = span.partition("-")
            begin = low if span == "*" else int(first)
            end = high if span == "*" or (step and not last) else int(last or first)
            found |= {number for number in range(begin, end + 1) if (number - begin) % int(step or 1) == 0}
        return found

    def _matches(self, clock: int) -> bool:
        if clock % 60 not in self.minute or clock // 60 % 24 not in self.hour:
            return False
        local = EPOCH + clock * MINUTE
        by_day, by_weekday = local.day in self.day, local.isoweekday() % 7 in self.weekday
        return local.month in self.month and ((by_day and by_weekday) if self.both_days else (by_day or by_weekday))

    def fires(self, walk: Iterable[tuple[datetime, int]]) -> list[datetime]:
        """The instants of a walk (instant, local clock in minutes) at which Debian's cron would start the job."""
        minutes = iter(walk)
        _, virtual = next(minutes)
        fires = []
        for instant, clock in minutes:
            jump = clock - virtual
            if jump == 1:  # a minute has gone by
                virtual = clock
                due = self._matches(clock)
            elif 1 < jump <= BIGGEST_CHANGE + 1:  # forward: wildcard jobs now, the skipped fixed ones too
                skipped = range(virtual + 1, clock + 1)
                due = self._matches(clock) if self.wild else any(self._matches(minute) for minute in skipped)
                virtual = clock
            elif -BIGGEST_CHANGE < jump <= 0:  # back: wildcard jobs only, until the clock has caught up
                due = self.wild and self._matches(clock)
            else:  # a correction: the new time counts at once
                virtual = clock
                due = self._matches(clock)
            if due:
                fires.append(instant)
        return fires


@lru_cache(maxsize=512)
def walk(zone: str, start: datetime, days: int) -> tuple[tuple[datetime, int], ...]:
    """Each minute of some days with what the local clock shows."""
    tz = ZoneInfo(zone)
    instants = (start + n * MINUTE for n in range(days * 24 * 60))
    return tuple((t, (t.astimezone(tz).replace(tzinfo=None) - EPOCH) // MINUTE) for t in instants)


@lru_cache(maxsize=64)
def change_days(zone: str, first_year: int, last_year: int) -> tuple[datetime, ...]:
    """Two days before each clock change of some years."""
    tz = ZoneInfo(zone)
    hours = [datetime(first_year, 1, 1, tzinfo=UTC) + n * HOUR for n in range((last_year - first_year + 1) * 8766)]
    offsets = [hour.astimezone(tz).utcoffset() for hour in hours]
    changes = [hours[n] for n, (before, after) in enumerate(pairwise(offsets)) if before != after]
    return tuple(change.replace(hour=0) - 2 * DAY for change in changes)


def fires_of(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    trigger = build({"type": "cron", "cron": cron, "timezone": zone})
    fires = []
    fire = trigger.next_fire(after)
    while fire is not None and fire <= until:
        fires.append(fire)
        fire = trigger.next_fire(fire)
    return fires


YEARS = {  # the last one has 24 hours at once, Casey and Troll two and three
    "Europe/Berlin": (2025, 2027),
    "America/New_York": (2025, 2027),
    "Australia/Lord_Howe": (2025, 2027),
    "Asia/Beirut": (2025, 2026),
    "Africa/Cairo": (2025, 2026),
    "America/Asuncion": (2023, 2024),
    "America/Santiago": (2025, 2026),
    "Africa/Casablanca": (2025, 2027),
    "America/St_Johns": (2009, 2011),  # changed at one minute past midnight
    "Antarctica/Troll": (2025, 2026),
    "Antarctica/Casey": (2018, 2023),
    "Pacific/Apia": (2010, 2012),
}
CRONS = [
    "* * * * *", "0 * * * *", "*/20 2 * * *", "30 */2 * * *", "0 */3 * * 0", "*/15 0 * * 0,6",
    "30 2 * * *", "0 0 * * *", "30 0,1,2,3,23 * * *", "0-59/10 0-4 * * *", "15 0 1-31/2 * 5", "45 1 */2 * 0,6",
    "1 0,12 * * *",
]  # fmt: skip


@pytest.mark.parametrize("zone", YEARS)
def test_every_clock_change_of_some_years_is_as_in_debian(zone):
    for start in change_days(zone, *YEARS[zone]):
        minutes = walk(zone, start, 4)
        for cron in CRONS:
            assert fires_of(cron, zone, minutes[0][0], minutes[-1][0]) == Reference(cron).fires(minutes), (cron, start)


@pytest.mark.parametrize("cron", ["0 0 13 * 5", "30 2 1-7 * */7", "0 12 31 * *", "*/30 0 29 2,3 *", "5 4 * 3,10 0"])
def test_whole_years_are_as_in_debian(cron):
    minutes = walk("Europe/Berlin", datetime(2027, 12, 30, tzinfo=UTC), 430)
    assert fires_of(cron, "Europe/Berlin", minutes[0][0], minutes[-1][0]) == Reference(cron).fires(minutes)


def ten_years(zone: str) -> Iterator[tuple[datetime, int]]:
    """Each minute of them; clocks are changed at quarters of an hour there."""
    tz, quarter = ZoneInfo(zone), 15 * MINUTE
    instant = datetime(2024, 1, 1, tzinfo=UTC)
    while instant.year < 2034:
        clock = (instant.astimezone(tz).replace(tzinfo=None) - EPOCH) // MINUTE
        yield from ((instant + n * MINUTE, clock + n) for n in range(15))
        instant += quarter


@pytest.mark.parametrize(
    ("zone", "cron"),
    [
        ("Europe/Berlin", "30 2 * * *"),
        ("America/New_York", "*/20 1-3 * * 0"),
        ("Australia/Lord_Howe", "15 2 1-10,28 * 0"),
    ],
)
def test_ten_years_of_fires_are_as_in_debian(zone, cron):
    expected = Reference(cron).fires(ten_years(zone))
    assert len(expected) > 1000
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    assert fires_of(cron, zone, begin, datetime(2034, 1, 1, tzinfo=UTC) - MINUTE) == expected


def field(low: int, high: int, usual: tuple[str, ...]) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    term = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.tuples(number, number, st.integers(1, 6)).map(lambda t: f"{min(t[:2])}-{max(t[:2])}/{t[2]}"),
        st.tuples(number, st.integers(1, 6)).map(lambda t: f"{t[0]}/{t[1]}"),
        st.integers(1, 6).map("*/{}".format),
        st.just("*"),
    )
    return st.one_of(st.sampled_from(usual), term, st.lists(term, min_size=2, max_size=3).map(",".join))


EXPRESSIONS = st.tuples(
    field(0, 59, ("0", "30", "*/15")),
    field(0, 23, ("*", "0", "1", "2", "3", "23", "0-3", "*/2")),
    field(1, 31, ("*",)),
    st.just("*"),
    field(0, 7, ("*", "0", "6")),
).map(" ".join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    EXPRESSIONS,
    st.sampled_from(sorted(YEARS)),
    st.integers(0, 1000),
    st.lists(st.timedeltas(timedelta(), 4 * DAY), min_size=3, max_size=3),
)
def test_random_expressions_around_clock_changes_are_as_in_debian(cron, zone, pick, offsets):
    starts = change_days(zone, *YEARS[zone])
    minutes = walk(zone, starts[pick % len(starts)], 4)
    begin, end = minutes[0][0], minutes[-1][0]
    expected = Reference(cron).fires(minutes)
    assert fires_of(cron, zone, begin, end) == expected
    trigger = build({"type": "cron", "cron": cron, "timezone": zone})
    for offset in offsets:  # the answer depends on the instant asked about, not on the way there
        rest = [fire for fire in expected if fire > begin + offset]
        if rest:
            assert trigger.next_fire(begin + offset) == rest[0]


@pytest.mark.parametrize(
    ("cron", "zone", "after"),
    [
        ("0 */3 * * *", "Australia/Lord_Howe", datetime(2026, 4, 4, 14, 30, tzinfo=UTC)),
        ("*/15 0 * * 0", "Asia/Beirut", datetime(2026, 3, 28, 12, tzinfo=UTC)),
        ("45 2 * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, 20, tzinfo=UTC)),
        ("0 12 * * *", "Pacific/Apia", datetime(2011, 12, 29, 23, tzinfo=UTC)),
    ],
)
def test_cronsim_on_zoned_times_differs_which_is_why_it_is_wrapped(cron, zone, after):
    minutes = walk(zone, after.replace(hour=0) - DAY, 10)
    expected = next(fire for fire in Reference(cron).fires(minutes) if fire > after)
    assert build({"type": "cron", "cron": cron, "timezone": zone}).next_fire(after) == expected
    assert next(CronSim(cron, after.astimezone(ZoneInfo(zone)))).astimezone(UTC) != expected

"""Fires within a range of dates: every one, once, in both directions, and counted without looking at each."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.triggers import InvalidTrigger, build, fires_between, read_range

BERLIN = {"timezone": "Europe/Berlin"}
TRIGGERS = [
    {"type": "cron", "cron": "0 * * * *"} | BERLIN,
    {"type": "cron", "cron": "30 2 * * *"} | BERLIN,
    {"type": "cron", "cron": "*/20 1-3 * * 0"} | BERLIN,
    {"type": "cron", "cron": "15 0 1 * *", "timezone": "America/Sao_Paulo"},
    {"type": "cron", "cron": "45 23 * * 1-5", "timezone": "Australia/Lord_Howe"},
    {"type": "cron", "cron": "0 12 * * *", "timezone": "Pacific/Apia"},
    {"type": "cron", "cron": "0 6 * * *", "start": "2011-03-20T07:00", "end": "2011-11-02T06:00"},
    {"type": "interval", "every": "7h"},
    {"type": "interval", "every": "95m", "start": "2011-04-01T00:00:30"},
    {"type": "calendar", "every": {"weeks": 2}, "at": "02:30"} | BERLIN,
    {"type": "date", "at": "2011-06-01T12:00Z"},
]
#: A year with changes of the clocks in all these zones, and Samoa's missing day.
FIRST = datetime(2011, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(), timedelta(days=370)).map(lambda age: FIRST + age)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(TRIGGERS), MOMENTS, st.timedeltas(timedelta(), timedelta(days=40)))
def test_a_range_has_every_fire_once_in_both_directions(config, first, length):
    trigger, last = build(config), first + length
    expected = []
    fire = trigger.next_fire(first - timedelta(microseconds=1))
    while fire is not None and fire <= last:
        expected.append(fire)
        fire = trigger.next_fire(fire)
    assert list(fires_between(trigger, first, last)) == expected
    assert list(fires_between(trigger, first, last, reverse=True)) == expected[::-1]
    assert trigger.count(first, last) == len(expected)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(TRIGGERS), MOMENTS, st.booleans(), st.integers(1, 5))
def test_a_range_can_be_walked_in_pieces(config, first, reverse, size):
    trigger, last = build(config), first + timedelta(days=10)
    reached, found = None, []
    while piece := list(islice(fires_between(trigger, first, last, reverse=reverse, reached=reached), size)):
        found += piece
        reached = piece[-1]
    assert found == list(fires_between(trigger, first, last, reverse=reverse))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"type": "cron", "cron": "* * * * *"}, 525_600),
        ({"type": "cron", "cron": "* * * * *"} | BERLIN, 525_600),
        ({"type": "cron", "cron": "30 2 * * *"} | BERLIN, 365),
        ({"type": "interval", "every": "1s"}, 31_536_000),
    ],
)
def test_millions_of_fires_are_counted(config, count):
    first, last = read_range(config, "2026-01-01", "2026-12-31")
    assert build(config).count(first, last) == count


@pytest.mark.parametrize(
    ("zone", "first", "last", "expected"),
    [
        ("UTC", "2026-01-01", "2026-01-02", ("2026-01-01T00:00:00", "2026-01-02T23:59:59.999999")),
        ("Europe/Berlin", "2026-07-01", "2026-07-01", ("2026-06-30T22:00:00", "2026-07-01T21:59:59.999999")),
        ("Europe/Berlin", "2026-03-29", "2026-03-29", ("2026-03-28T23:00:00", "2026-03-29T21:59:59.999999")),
        ("Europe/Berlin", "2026-07-01T06:00", "2026-07-01T07:00", ("2026-07-01T04:00:00", "2026-07-01T05:00:00")),
        (
            "Europe/Berlin",
            "2026-07-01T06:00Z",
            "2026-07-01T06:00+09:00",
            ("2026-07-01T06:00:00", "2026-06-30T21:00:00"),
        ),
        (None, date(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC), ("2026-01-01T00:00:00", "2026-01-02T00:00:00")),
    ],
)
def test_ends_are_in_the_trigger_s_zone_and_a_last_date_is_its_whole_day(zone, first, last, expected):
    found = read_range({"type": "cron", "timezone": zone}, first, last)
    assert tuple(end.isoformat().removesuffix("+00:00") for end in found) == expected


@pytest.mark.parametrize(
    ("first", "last", "path"), [("soon", "2026-01-01", "from"), ("2026-01-01", "2026-13-01", "to")]
)
def test_what_is_no_moment_is_told_with_its_end(first, last, path):
    with pytest.raises(InvalidTrigger) as error:
        read_range({}, first, last)
    assert error.value.problems[0].path == path

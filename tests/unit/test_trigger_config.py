"""Triggers as a workflow file writes them: interval and date, checks, identity, upcoming fires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.triggers import InvalidTrigger, build, schedule_text, trigger_identity, upcoming, validate

DAILY = {"type": "cron", "cron": "0 6 * * *"}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def first_fires(trigger: dict, after: str, count: int = 3) -> list[str]:
    built, fires = build(trigger), []
    fire = built.next_fire(moment(after))
    while fire is not None and len(fires) < count:
        fires.append(f"{fire:%Y-%m-%d %H:%M:%S}")
        fire = built.next_fire(fire)
    return fires


@pytest.mark.parametrize(
    ("keys", "after", "fires"),
    [
        ({"every": "15m"}, "2026-01-01 00:07", ["2026-01-01 00:15:00", "2026-01-01 00:30:00", "2026-01-01 00:45:00"]),
        ({"every": "1d"}, "2026-01-01 00:00", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
        ({"every": "PT7S"}, "1970-01-01 00:00", ["1970-01-01 00:00:07", "1970-01-01 00:00:14", "1970-01-01 00:00:21"]),
        (
            {"every": "1h", "start": "2026-01-01T00:20:00Z"},
            "2025-01-01",
            ["2026-01-01 00:20:00", "2026-01-01 01:20:00", "2026-01-01 02:20:00"],
        ),
        (
            {"every": "1h", "start": "2026-01-01T00:20:00Z"},
            "2026-03-01 07:20",
            ["2026-03-01 08:20:00", "2026-03-01 09:20:00", "2026-03-01 10:20:00"],
        ),
        (
            {"every": "1h", "start": "2026-01-01T12:00", "timezone": "America/New_York", "end": "2026-01-01T13:00"},
            "2026-01-01",
            ["2026-01-01 17:00:00", "2026-01-01 18:00:00"],
        ),
        (  # a day is 24 hours: the interval does not follow the clock
            {"every": "1d", "start": "2026-03-28T12:00", "timezone": "Europe/Berlin"},
            "2026-03-28 00:00",
            ["2026-03-28 11:00:00", "2026-03-29 11:00:00", "2026-03-30 11:00:00"],
        ),
    ],
)
def test_interval_fires_on_its_grid(keys, after, fires):
    assert first_fires({"type": "interval", **keys}, after) == fires


@given(st.integers(1, 10**6), st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds of hypothesis are naive
def test_interval_is_anchored_at_the_epoch_exactly(seconds, after):
    fire = build({"type": "interval", "every": f"{seconds}s"}).next_fire(after)
    assert after < fire <= after + timedelta(seconds=seconds)
    assert (fire - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=seconds) == timedelta(0)


@pytest.mark.parametrize(
    ("keys", "fire", "note"),
    [
        ({"at": "2026-12-01T09:00:00Z"}, "2026-12-01 09:00", None),
        ({"at": "2026-12-01T09:00:00+05:30"}, "2026-12-01 03:30", None),
        ({"at": "2026-12-01T09:00"}, "2026-12-01 09:00", None),
        ({"at": "2026-12-01 09:00", "timezone": "Europe/Berlin"}, "2026-12-01 08:00", None),
        ({"at": "2026-12-01", "timezone": "Europe/Berlin"}, "2026-11-30 23:00", None),
        ({"at": "2026-12-01T09:00Z", "timezone": "Europe/Berlin"}, "2026-12-01 09:00", None),
        ({"at": "2026-03-29T02:30", "timezone": "Europe/Berlin"}, "2026-03-29 01:00", "dst-gap"),
        ({"at": "2026-10-25T02:30", "timezone": "Europe/Berlin"}, "2026-10-25 00:30", "dst-overlap"),
        ({"at": "2026-10-04T02:10", "timezone": "Australia/Lord_Howe"}, "2026-10-03 15:30", "dst-gap"),
        ({"at": "2026-03-29T00:00", "timezone": "Asia/Beirut"}, "2026-03-28 22:00", "dst-gap"),
        ({"at": "2011-12-30T12:00", "timezone": "Pacific/Apia"}, "2011-12-30 10:00", "dst-gap"),
        ({"at": datetime(2026, 12, 1, 9)}, "2026-12-01 09:00", None),  # noqa: DTZ001 - YAML reads dates so
    ],
)
def test_date_fires_once_in_its_zone(keys, fire, note):
    trigger = {"type": "date", **keys}
    [only] = upcoming([trigger], 5, moment("2000-01-01"))
    assert (only.at, only.note) == (moment(fire), note)
    assert build(trigger).next_fire(moment(fire)) is None


@pytest.mark.parametrize(
    ("trigger", "path", "message"),
    [
        ({}, "type", "not a type"),
        ({"type": "crom"}, "type", "not a type"),
        ({"type": ["cron"]}, "type", "not a type"),
        ({"type": "calendar", "every": {"months": 1}}, "at", "a time of day is text"),
        ({"type": "event", "workflow": "x"}, "type", "has no clock"),
        ({"type": "webhook"}, "type", "has no clock"),
        ({"type": "cron"}, "cron", "needs `cron`"),
        ({"type": "cron", "cron": "0 0 30 2 *"}, "cron", "does not fire"),
        ({"type": "interval"}, "every", "needs `every`"),
        ({"type": "interval", "every": "soon"}, "every", "not a duration"),
        ({"type": "interval", "every": 15}, "every", "is text"),
        ({"type": "interval", "every": "0s"}, "every", "shorter than a second"),
        ({"type": "interval", "every": "250ms"}, "every", "shorter than a second"),
        ({"type": "date"}, "at", "needs `at`"),
        ({"type": "date", "at": "tomorrow"}, "at", "not a moment"),
        ({"type": "date", "at": 2026}, "at", "is text"),
        ({"type": "date", "at": "9999-12-31T23:59-12:00"}, "at", "out of range"),
        ({**DAILY, "timezone": "Europe/Berln"}, "timezone", "not known"),
        ({**DAILY, "timezone": "europe/berlin"}, "timezone", "not known"),
        ({**DAILY, "timezone": "localtime"}, "timezone", "not known"),
        ({**DAILY, "timezone": "../../etc/passwd"}, "timezone", "not known"),
        ({**DAILY, "timezone": "Europe"}, "timezone", "not known"),
        ({**DAILY, "timezone": 1}, "timezone", "is a name"),
        ({**DAILY, "start": "x"}, "start", "not a moment"),
        ({**DAILY, "start": "2026-02-01", "end": "2026-01-01"}, "end", "before the start"),
        ({**DAILY, "jitter": "2d"}, "jitter", "longer than a day"),
        ({**DAILY, "jitter": 5}, "jitter", "is text"),
    ],
)
def test_wrong_trigger_is_refused_at_its_key(trigger, path, message):
    [problem] = validate(trigger)
    assert problem.path == path
    assert message in problem.message
    with pytest.raises(InvalidTrigger, match=message):
        build(trigger)


def test_all_problems_are_reported_at_once():
    problems = validate({"type": "cron", "cron": "x", "timezone": "Mars", "start": "?", "end": "?", "jitter": "?"})
    assert [problem.path for problem in problems] == ["timezone", "start", "end", "jitter", "cron"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "Europe/Berlin"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("new york", "America/New_York"),
        ("Europe/Berln", "Europe/Berlin"),
        ("Xyz", "IANA"),
    ],
)
def test_unknown_zone_comes_with_the_nearest_name(name, hint):
    assert hint in (validate({**DAILY, "timezone": name})[0].hint or "")


@pytest.mark.parametrize(
    "same",
    [
        {"cron": "0 6 * * *", "type": "cron"},
        {**DAILY, "cron": " 0  6 * * * "},
        {**DAILY, "timezone": "UTC"},
        {**DAILY, "catchup": False, "params": {}, "start": None, "paused": True},
    ],
)
def test_identity_of_an_unnamed_trigger_ignores_spelling_and_pause(same):
    assert trigger_identity(same) == trigger_identity(DAILY)


@pytest.mark.parametrize(
    "other",
    [
        {**DAILY, "cron": "0 7 * * *"},
        {**DAILY, "timezone": "Europe/Berlin"},
        {**DAILY, "params": {"city": "Bonn"}},
        {**DAILY, "catchup": True},
        {**DAILY, "end": "2030-01-01"},
    ],
)
def test_identity_of_an_unnamed_trigger_is_its_content(other):
    assert trigger_identity(other) != trigger_identity(DAILY)


def test_identity_of_a_named_trigger_is_its_name_and_its_schedule_tells_changes():
    before, after = {**DAILY, "name": "morning"}, {**DAILY, "name": "morning", "cron": "0 7 * * *"}
    assert trigger_identity(before) == trigger_identity(after) == "morning"
    assert schedule_text(before) != schedule_text(after)
    assert schedule_text(before) == schedule_text({**before, "params": {"a": 1}, "paused": True})


def test_upcoming_merges_triggers_in_order_from_an_instant_on():
    triggers = [
        {"type": "interval", "every": "8h", "name": "often"},
        {"type": "cron", "cron": "0 6 * * *", "timezone": "Europe/Berlin"},
        {"type": "date", "at": "2026-01-01T08:00Z"},
    ]
    assert [(f"{fire.at:%d %H:%M}", fire.trigger) for fire in upcoming(triggers, 5, moment("2026-01-01 00:00"))] == [
        ("01 00:00", "often"),
        ("01 05:00", "cron 0 6 * * * Europe/Berlin"),
        ("01 08:00", "often"),
        ("01 08:00", "date 2026-01-01T08:00Z"),
        ("01 16:00", "often"),
    ]


def test_upcoming_from_a_time_without_an_offset_is_in_each_trigger_s_zone():
    triggers = [
        {"type": "cron", "cron": "0 6 * * *", "timezone": "Asia/Tokyo", "name": "tokyo", "paused": True},
        {"type": "cron", "cron": "0 6 * * *", "timezone": "America/New_York", "name": "york"},
    ]
    found = upcoming(triggers, 2, "2026-01-05T06:00")
    assert [(f"{fire.at:%d %H:%M}", fire.trigger, fire.paused) for fire in found] == [
        ("04 21:00", "tokyo", True),
        ("05 11:00", "york", False),
    ]
    with pytest.raises(InvalidTrigger) as error:
        upcoming(triggers, 2, "soon")
    assert error.value.problems[0].path == "from"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [("29 01:00", "dst-gap"), ("30 00:30", None)]),
        ({"jitter": "20m"}, [("29 01:00", "dst-gap"), ("30 00:30", None)]),  # before jitter
        ({"start": "2026-03-29T02:15"}, [("29 01:00", "dst-gap"), ("30 00:30", None)]),
        ({"start": "2026-03-30"}, [("30 00:30", None), ("31 00:30", None)]),
        ({"end": "2026-03-29T12:00", "paused": True}, [("29 01:00", "dst-gap")]),
    ],
)
def test_upcoming_marks_changes_of_the_clock_whatever_else_a_trigger_has(keys, expected):
    trigger = {"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin", **keys}
    found = upcoming([trigger], 2, moment("2026-03-28 12:00"))
    assert [(f"{fire.at:%d %H:%M}", fire.note) for fire in found] == expected


def test_upcoming_of_finished_triggers_is_empty():
    assert upcoming([{"type": "date", "at": "2020-01-01"}], 5, moment("2026-01-01")) == []
    assert upcoming([], 5, moment("2026-01-01")) == []

"""Calendar triggers: dates on a grid, a local time of day, clock changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.triggers import InvalidTrigger, build, describe, validate


def calendar(every, at="06:00", **keys):
    return {"type": "calendar", "every": every, "at": at, **keys}


def fires(trigger, after, count):
    built, moment, found = build(trigger), datetime.fromisoformat(after).replace(tzinfo=UTC), []
    for _ in range(count):
        moment = built.next_fire(moment)
        if moment is None:
            break
        found.append(f"{moment:%Y-%m-%dT%H:%M}")
    return found


BERLIN = {"timezone": "Europe/Berlin"}
#: Trigger, asked after, next fires in UTC.
TABLE = [
    (calendar({"months": 1}), "2026-01-01T06:00", ["2026-02-01T06:00", "2026-03-01T06:00"]),
    (calendar({"months": 1}), "2026-01-01T05:59", ["2026-01-01T06:00"]),
    (calendar({"months": 3}), "2026-01-15T00:00", ["2026-04-01T06:00", "2026-07-01T06:00"]),
    (calendar({"years": 1}), "2026-01-01T06:00", ["2027-01-01T06:00"]),
    (calendar({"years": 4}, start="2024-02-29"), "2024-03-01T00:00", ["2028-02-29T06:00"]),
    (calendar({"years": 1}, start="2024-02-29"), "2024-03-01T00:00", ["2028-02-29T06:00", "2032-02-29T06:00"]),
    (calendar({"months": 1}, start="2026-01-31"), "2026-01-31T06:00", ["2026-03-31T06:00", "2026-05-31T06:00"]),
    (calendar({"weeks": 1}), "2026-11-20T00:00", ["2026-11-23T06:00", "2026-11-30T06:00"]),  # Mondays
    (calendar({"weeks": 2}, start="2026-11-04"), "2026-11-05T00:00", ["2026-11-18T06:00", "2026-12-02T06:00"]),
    (calendar({"days": 10}, start="2026-01-01"), "2026-01-01T07:00", ["2026-01-11T06:00", "2026-01-21T06:00"]),
    (calendar({"months": 1, "days": 1}, start="2026-01-01"), "2026-01-02T00:00", ["2026-02-02T06:00", "2026-03-03T06:00"]),
    (calendar({"days": 1}, at="23:30:15"), "2026-01-01T23:31", ["2026-01-02T23:30"]),
    (calendar({"days": 1}, **BERLIN), "2026-03-27T00:00", ["2026-03-27T05:00", "2026-03-28T05:00", "2026-03-29T04:00"]),
    # 02:30 does not exist on 29 March and is twice there on 25 October
    (calendar({"days": 1}, at="02:30", **BERLIN), "2026-03-28T02:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
    (calendar({"days": 1}, at="02:30", **BERLIN), "2026-10-24T01:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    # the date is the zone's: midnight in Auckland is the day before in UTC
    (calendar({"months": 1}, at="00:00", timezone="Pacific/Auckland"), "2026-06-15T00:00", ["2026-06-30T12:00"]),
    (calendar({"months": 1}, end="2026-03-15"), "2026-01-15T00:00", ["2026-02-01T06:00", "2026-03-01T06:00"]),
    (calendar({"months": 1}, start="2030-05-10T12:00"), "2026-01-01T00:00", ["2030-06-10T06:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("trigger", "after", "expected"), TABLE)
def test_the_next_fires(trigger, after, expected):
    assert fires(trigger, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("day", "note"), [("2026-03-29T01:00", "dst-gap"), ("2026-10-25T00:30", "dst-overlap"), ("2026-06-01T00:30", None)]
)
def test_clock_changes_are_noted(day, note):
    trigger = build(calendar({"days": 1}, at="02:30", **BERLIN))
    assert trigger.note(datetime.fromisoformat(day).replace(tzinfo=UTC)) == note


WRONG = [
    (calendar("1h"), "every"), (calendar({}), "every"), (calendar({"hours": 1}), "every"),
    (calendar({"months": 0}), "every"), (calendar({"months": 1.5}), "every"), (calendar({"days": True}), "every"),
    (calendar({"years": 101}), "every"), (calendar({"days": 1}, at="25:00"), "at"),
    (calendar({"days": 1}, at="6"), "at"), (calendar({"days": 1}, at="06:00+02:00"), "at"),
    (calendar({"days": 1}, at=None), "at"), (calendar({"days": 1}, at="2026-01-01T06:00"), "at"),
    (calendar({"days": 1}, timezone="Europe/Berln"), "timezone"),
]  # fmt: skip


@pytest.mark.parametrize(("trigger", "key"), WRONG)
def test_a_wrong_one_is_refused_at_its_key(trigger, key):
    assert {problem.path for problem in validate(trigger)} == {key}
    with pytest.raises(InvalidTrigger):
        build(trigger)


def test_it_is_called_by_its_step_and_time():
    assert describe(calendar({"months": 1}, **BERLIN)) == "calendar 1 months 06:00 Europe/Berlin"


steps = st.fixed_dictionaries(
    {}, optional={"months": st.integers(1, 30), "weeks": st.integers(1, 9), "days": st.integers(1, 70)}
)


@given(
    steps.filter(bool),
    st.dates(date(1990, 1, 1), date(2060, 1, 1)),
    st.datetimes(datetime(1995, 1, 1), datetime(2070, 1, 1)),  # noqa: DTZ001 - hypothesis wants naive ones
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"]),
)
def test_it_agrees_with_walking_through_all_dates(every, start, after, zone):
    after = after.replace(tzinfo=UTC)
    trigger = build(calendar(every, at="03:15", timezone=zone, start=start.isoformat()))
    assert trigger.next_fire(after) == walked(every, start, after, ZoneInfo(zone))


def walked(every, start, after, zone):
    """Date by date from the anchor on."""
    number = 0
    while True:
        months = start.year * 12 + start.month - 1 + every.get("months", 0) * number
        number += 1
        try:
            day = date(months // 12, months % 12 + 1, start.day)
        except ValueError:
            continue
        day += timedelta(days=(every.get("weeks", 0) * 7 + every.get("days", 0)) * (number - 1))
        fire = datetime(day.year, day.month, day.day, 3, 15, tzinfo=zone).astimezone(UTC)
        if fire > after and fire >= datetime(start.year, start.month, start.day, tzinfo=zone):
            return fire

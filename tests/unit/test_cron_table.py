"""Cron expressions in zones and nights that matter; every expected instant was worked out by hand.

`after` and the fires are UTC, as `MM-DD HH:MM` of the year in `after`. Clock changes in the tables (UTC):

  Europe/Berlin        2026-03-29 01:00 forward 02->03     2026-10-25 01:00 back 03->02
  America/New_York     2026-03-08 07:00 forward 02->03     2026-11-01 06:00 back 02->01
  Australia/Lord_Howe  2026-10-03 15:30 forward 02:00->02:30   2026-04-04 15:00 back 02:00->01:30
  Asia/Beirut          2026-03-28 22:00 forward 00->01     2026-10-24 21:00 back 00->23 the day before
  Africa/Cairo         2026-04-23 22:00 forward 00->01     2026-10-29 21:00 back 00->23 the day before
  America/Asuncion     2023-10-01 04:00 forward 00->01     2024-03-24 03:00 back 00->23 the day before
  Africa/Casablanca    2026-03-22 02:00 forward 02->03     2026-02-15 02:00 back 03->02
  Antarctica/Troll     2026-03-29 01:00 forward 01->03     2026-10-25 01:00 back 03->01
  Pacific/Apia         2011-12-30 10:00 forward from the end of the 29th to the begin of the 31st
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.base import BaseTrigger

from agentflow.triggers import CronTrigger5, build, upcoming

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
BEIRUT, CAIRO, ASUNCION = "Asia/Beirut", "Africa/Cairo", "America/Asuncion"
CASABLANCA, TROLL, APIA = "Africa/Casablanca", "Antarctica/Troll", "Pacific/Apia"

#: cron, after, fires: in UTC, without clock changes. 2026-01-01 is a Thursday.
ORDINARY = [
    ("* * * * *", "2026-01-01 00:00", "01-01 00:01, 01-01 00:02"),
    ("*/15 * * * *", "2026-01-01 00:50", "01-01 01:00, 01-01 01:15"),
    ("7-59/20 * * * *", "2026-01-01 00:00", "01-01 00:07, 01-01 00:27, 01-01 00:47, 01-01 01:07"),
    ("50/4 * * * *", "2026-01-01 00:00", "01-01 00:50, 01-01 00:54, 01-01 00:58, 01-01 01:50"),
    ("10-10/5 * * * *", "2026-01-01 00:00", "01-01 00:10, 01-01 01:10"),
    ("5,3,4 2 * * *", "2026-01-01 00:00", "01-01 02:03, 01-01 02:04, 01-01 02:05, 01-02 02:03"),
    ("*/60 * * * *", "2026-01-01 00:00", "01-01 01:00, 01-01 02:00"),
    ("*/25 * * * *", "2026-01-01 00:00", "01-01 00:25, 01-01 00:50, 01-01 01:00"),
    ("0 */7 * * *", "2026-01-01 00:00", "01-01 07:00, 01-01 14:00, 01-01 21:00, 01-02 00:00"),
    ("0 22-23,0-2 * * *", "2026-01-01 01:00", "01-01 02:00, 01-01 22:00, 01-01 23:00, 01-02 00:00"),
    ("0 0 * * 0", "2026-01-01 00:00", "01-04 00:00, 01-11 00:00"),
    ("0 0 * * 7", "2026-01-01 00:00", "01-04 00:00, 01-11 00:00"),
    ("0 0 * * SUN", "2026-01-01 00:00", "01-04 00:00, 01-11 00:00"),
    ("0 0 * * 1", "2026-01-01 00:00", "01-05 00:00, 01-12 00:00"),
    ("0 0 * * 1-5", "2026-01-01 00:00", "01-02 00:00, 01-05 00:00, 01-06 00:00"),
    ("0 0 * * Mon-fri", "2026-01-01 00:00", "01-02 00:00, 01-05 00:00, 01-06 00:00"),
    ("0 0 * * 5-7", "2026-01-01 00:00", "01-02 00:00, 01-03 00:00, 01-04 00:00, 01-09 00:00"),
    ("0 0 * * sun-tue", "2026-01-01 00:00", "01-04 00:00, 01-05 00:00, 01-06 00:00, 01-11 00:00"),
    ("0 0 * * 0-7/2", "2026-01-01 00:00", "01-03 00:00, 01-04 00:00, 01-06 00:00, 01-08 00:00"),
    ("0 0 * * 4-6/2", "2026-01-01 00:00", "01-03 00:00, 01-08 00:00, 01-10 00:00"),
    ("0 0 13 * 5", "2026-02-01 00:00", "02-06 00:00, 02-13 00:00, 02-20 00:00, 02-27 00:00, 03-06 00:00, 03-13 00:00"),
    ("0 0 15 * 5", "2026-02-07 00:00", "02-13 00:00, 02-15 00:00, 02-20 00:00"),
    ("0 0 */2 * 1", "2026-01-01 00:00", "01-05 00:00, 01-19 00:00, 02-09 00:00"),
    ("0 0 1-7 * */7", "2026-01-01 00:00", "01-04 00:00, 02-01 00:00, 03-01 00:00"),
    ("0 0 1-31 * 1", "2026-01-01 00:00", "01-02 00:00, 01-03 00:00, 01-04 00:00"),
    ("0 0 31 * *", "2026-01-31 00:00", "03-31 00:00, 05-31 00:00, 07-31 00:00, 08-31 00:00"),
    ("0 0 30 jan-MAR *", "2026-01-01 00:00", "01-30 00:00, 03-30 00:00"),
    ("0 12 1 */5 *", "2026-01-02 00:00", "06-01 12:00, 11-01 12:00"),
    ("@hourly", "2026-01-01 00:00", "01-01 01:00, 01-01 02:00"),
    ("@daily", "2026-01-01 00:00", "01-02 00:00, 01-03 00:00"),
    ("@WEEKLY", "2026-01-01 00:00", "01-04 00:00, 01-11 00:00"),
    ("@monthly", "2026-01-01 00:00", "02-01 00:00, 03-01 00:00"),
    ("@yearly", "2025-12-31 00:00", "01-01 00:00, 01-01 00:00"),
    ("  0\t6  * *   * ", "2026-01-01 00:00", "01-01 06:00"),
    ("59 23 31 12 *", "2026-01-01 00:00", "12-31 23:59"),
    ("0 0 29 2 *", "2028-01-01 00:00", "02-29 00:00"),
]

#: zone, cron, after, fires: a time of day in the night of a change.
TIMES_OF_DAY = [
    (BERLIN, "30 2 * * *", "2026-03-28 00:00", "03-28 01:30, 03-29 01:00 gap, 03-30 00:30"),
    (BERLIN, "0 2 * * *", "2026-03-28 12:00", "03-29 01:00 gap, 03-30 00:00"),
    (BERLIN, "0 3 * * *", "2026-03-28 12:00", "03-29 01:00, 03-30 01:00"),
    (BERLIN, "59 1 * * *", "2026-03-28 12:00", "03-29 00:59, 03-29 23:59"),
    (BERLIN, "15,30,45 2 * * *", "2026-03-28 12:00", "03-29 01:00 gap, 03-30 00:15"),
    (BERLIN, "30 2,3 * * *", "2026-03-28 12:00", "03-29 01:00 gap, 03-29 01:30, 03-30 00:30"),
    (BERLIN, "0 2,3 * * *", "2026-03-28 12:00", "03-29 01:00 gap, 03-30 00:00"),
    (BERLIN, "30 1-3 * * *", "2026-03-28 12:00", "03-29 00:30, 03-29 01:00 gap, 03-29 01:30, 03-29 23:30"),
    (BERLIN, "30 2 29 3 *", "2026-01-01 00:00", "03-29 01:00 gap"),
    (BERLIN, "30 2 * * 0", "2026-03-23 00:00", "03-29 01:00 gap, 04-05 00:30"),
    (BERLIN, "30 2 * * 1", "2026-03-24 00:00", "03-30 00:30"),
    (BERLIN, "30 2 * * *", "2026-10-24 12:00", "10-25 00:30 overlap, 10-26 01:30"),
    (BERLIN, "0 2 * * *", "2026-10-24 12:00", "10-25 00:00 overlap, 10-26 01:00"),
    (BERLIN, "0 3 * * *", "2026-10-24 12:00", "10-25 02:00, 10-26 02:00"),
    (BERLIN, "30 2 * * *", "2026-10-25 00:30", "10-26 01:30"),
    (BERLIN, "30 2 * * *", "2026-10-25 01:10", "10-26 01:30"),
    (BERLIN, "45 2 * * *", "2026-10-25 01:20", "10-26 01:45"),
    (
        BERLIN,
        "0-59/20 2 * * *",
        "2026-10-24 12:00",
        "10-25 00:00 overlap, 10-25 00:20 overlap, 10-25 00:40 overlap, 10-26 01:00",
    ),
    (NEW_YORK, "30 2 * * *", "2026-03-08 00:00", "03-08 07:00 gap, 03-09 06:30"),
    (NEW_YORK, "30 1 * * *", "2026-10-31 12:00", "11-01 05:30 overlap, 11-02 06:30"),
    (NEW_YORK, "30 1 * * *", "2026-11-01 06:15", "11-02 06:30"),
    (NEW_YORK, "0 2 * * *", "2026-10-31 12:00", "11-01 07:00, 11-02 07:00"),
    (NEW_YORK, "0 9 * * 1-5", "2026-03-06 12:00", "03-06 14:00, 03-09 13:00"),
    (LORD_HOWE, "15 2 * * *", "2026-10-02 20:00", "10-03 15:30 gap, 10-04 15:15"),
    (LORD_HOWE, "30 2 * * *", "2026-10-02 20:00", "10-03 15:30, 10-04 15:30"),
    (LORD_HOWE, "0,15,45 2 * * *", "2026-10-02 20:00", "10-03 15:30 gap, 10-03 15:45, 10-04 15:00"),
    (LORD_HOWE, "45 1 * * *", "2026-04-03 20:00", "04-04 14:45 overlap, 04-05 15:15"),
    (LORD_HOWE, "15 1 * * *", "2026-04-03 20:00", "04-04 14:15, 04-05 14:45"),
    (LORD_HOWE, "0 2 * * *", "2026-04-03 20:00", "04-04 15:30, 04-05 15:30"),
    (BEIRUT, "0 0 * * *", "2026-03-28 00:00", "03-28 22:00 gap, 03-29 21:00"),
    (BEIRUT, "30 0 * * *", "2026-03-28 00:00", "03-28 22:00 gap, 03-29 21:30"),
    (BEIRUT, "30 0 * * 0", "2026-03-23 00:00", "03-28 22:00 gap, 04-04 21:30"),
    (BEIRUT, "30 0 * * 6", "2026-03-28 00:00", "04-03 21:30"),
    (BEIRUT, "@daily", "2026-10-23 12:00", "10-23 21:00, 10-24 22:00, 10-25 22:00"),
    (BEIRUT, "30 23 * * *", "2026-10-24 12:00", "10-24 20:30 overlap, 10-25 21:30"),
    (BEIRUT, "30 23 * * 6", "2026-10-24 21:10", "10-31 21:30"),
    (CAIRO, "0 0 * * *", "2026-04-23 00:00", "04-23 22:00 gap, 04-24 21:00"),
    (CAIRO, "15 0 * * 5", "2026-04-23 00:00", "04-23 22:00 gap, 04-30 21:15"),
    (CAIRO, "0 23 * * *", "2026-10-29 00:00", "10-29 20:00 overlap, 10-30 21:00"),
    (ASUNCION, "0 0 1 * *", "2023-09-02 00:00", "10-01 04:00 gap, 11-01 03:00"),
    (ASUNCION, "30 23 * * *", "2024-03-23 12:00", "03-24 02:30 overlap, 03-25 03:30"),
    (CASABLANCA, "30 2 * * *", "2026-03-21 12:00", "03-22 02:00 gap, 03-23 01:30"),
    (CASABLANCA, "30 2 * * *", "2026-02-14 12:00", "02-15 01:30 overlap, 02-16 02:30"),
    (TROLL, "0 1,2 * * *", "2026-03-28 12:00", "03-29 01:00 gap, 03-29 23:00"),
    (TROLL, "30 1,2 * * *", "2026-10-24 12:00", "10-24 23:30 overlap, 10-25 00:30 overlap, 10-26 01:30"),
    (APIA, "0 12 * * *", "2011-12-29 00:00", "12-29 22:00, 12-30 22:00, 12-31 22:00"),
    ("Asia/Kathmandu", "0 6 * * *", "2026-01-01 00:00", "01-01 00:15, 01-02 00:15"),
    ("America/St_Johns", "0 6 * * *", "2026-03-07 12:00", "03-08 08:30, 03-09 08:30"),
]

#: zone, cron, after, fires: minute or hour begins with `*`, so real time counts.
ELAPSED_TIME = [
    (BERLIN, "0 * * * *", "2026-03-28 23:30", "03-29 00:00, 03-29 01:00, 03-29 02:00"),
    (BERLIN, "0 * * * *", "2026-10-24 23:30", "10-25 00:00 overlap, 10-25 01:00 overlap, 10-25 02:00"),
    (BERLIN, "30 * * * *", "2026-10-24 23:30", "10-25 00:30 overlap, 10-25 01:30 overlap, 10-25 02:30"),
    (BERLIN, "*/30 2 * * *", "2026-03-28 12:00", "03-30 00:00, 03-30 00:30"),
    (BERLIN, "*/30 2 * * *", "2026-10-24 12:00",
     "10-25 00:00 overlap, 10-25 00:30 overlap, 10-25 01:00 overlap, 10-25 01:30 overlap, 10-26 01:00"),
    (BERLIN, "30 */2 * * *", "2026-03-28 22:00", "03-28 23:30, 03-29 02:30, 03-29 04:30"),
    (BERLIN, "30 */2 * * *", "2026-10-24 21:00", "10-24 22:30, 10-25 00:30 overlap, 10-25 01:30 overlap, 10-25 03:30"),
    (NEW_YORK, "0 * * * *", "2026-11-01 03:30", "11-01 04:00, 11-01 05:00 overlap, 11-01 06:00 overlap, 11-01 07:00"),
    (NEW_YORK, "*/30 1-3 * * *", "2026-03-08 05:30", "03-08 06:00, 03-08 06:30, 03-08 07:00, 03-08 07:30, 03-09 05:00"),
    (NEW_YORK, "30 */2 * * *", "2026-03-08 04:00", "03-08 05:30, 03-08 08:30, 03-08 10:30"),
    (LORD_HOWE, "0 */3 * * *", "2026-04-04 10:00", "04-04 13:00, 04-04 16:30, 04-04 19:30"),
    (LORD_HOWE, "0 * * * *", "2026-04-04 13:30", "04-04 14:00, 04-04 15:30, 04-04 16:30"),
    (LORD_HOWE, "45 * * * *", "2026-04-04 14:00", "04-04 14:45 overlap, 04-04 15:15 overlap, 04-04 16:15"),
    (LORD_HOWE, "0 * * * *", "2026-10-03 14:00", "10-03 14:30, 10-03 16:00, 10-03 17:00"),
    (BEIRUT, "*/15 0 * * 0", "2026-03-28 12:00", "04-04 21:00, 04-04 21:15"),
    (BEIRUT, "0 */6 * * 0", "2026-03-28 12:00", "03-29 03:00, 03-29 09:00"),
    (BEIRUT, "*/30 23 * * 6", "2026-10-24 12:00",
     "10-24 20:00 overlap, 10-24 20:30 overlap, 10-24 21:00 overlap, 10-24 21:30 overlap, 10-31 21:00"),
    (CAIRO, "*/20 * * * 5", "2026-04-23 12:00", "04-23 22:00, 04-23 22:20, 04-23 22:40"),
    (APIA, "0 */12 * * *", "2011-12-29 12:00", "12-29 22:00, 12-30 10:00, 12-30 22:00"),
]  # fmt: skip


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _check(zone: str, cron: str, after: str, fires: str) -> None:
    start = _moment(after)
    expected = [fire.strip() for fire in fires.split(",")]
    trigger = {"type": "cron", "cron": cron, "timezone": zone}
    actual = []
    previous = start
    for fire in upcoming([trigger], len(expected) + 1, start):
        if fire.at > start and len(actual) < len(expected):
            note = fire.note.replace("dst-", " ") if fire.note else ""
            actual.append(f"{fire.at:%m-%d %H:%M}{note}")
            assert fire.at > previous
            previous = fire.at
    assert actual == expected


@pytest.mark.parametrize(("cron", "after", "fires"), ORDINARY)
def test_expression_fires_at_these_minutes_in_utc(cron, after, fires):
    _check("UTC", cron, after, fires)


@pytest.mark.parametrize(("zone", "cron", "after", "fires"), TIMES_OF_DAY)
def test_time_of_day_runs_once_even_if_the_clock_skips_or_repeats_it(zone, cron, after, fires):
    _check(zone, cron, after, fires)


@pytest.mark.parametrize(("zone", "cron", "after", "fires"), ELAPSED_TIME)
def test_expression_with_a_star_follows_real_time(zone, cron, after, fires):
    _check(zone, cron, after, fires)


def test_leap_day_waits_for_the_leap_year():
    trigger = build({"type": "cron", "cron": "0 0 29 2 *"})
    fires = [trigger.next_fire(_moment("2026-01-01")), trigger.next_fire(_moment("2096-03-01"))]
    assert fires == [_moment("2028-02-29"), _moment("2104-02-29")]  # 2100 has none


def test_skipped_day_is_not_made_up():
    trigger = build({"type": "cron", "cron": "0 0 30 12 *", "timezone": APIA})
    assert trigger.next_fire(_moment("2011-12-01")) == _moment("2012-12-29 10:00")


@pytest.mark.parametrize("zone", ["UTC", BERLIN, LORD_HOWE, APIA, CASABLANCA, "America/Santiago", "Asia/Gaza"])
@pytest.mark.parametrize("cron", ["* * * * *", "*/7 */3 * * *", "13 2 * * *", "0 0 * * *", "30 1,2,3 * * 0"])
def test_fires_are_strictly_ordered_whole_minutes_in_utc(zone, cron):
    trigger = build({"type": "cron", "cron": cron, "timezone": zone})
    fires = [_moment("2026-03-20 00:00:13.5")]
    for _ in range(200):
        fires.append(trigger.next_fire(fires[-1]))
    assert all(earlier < later for earlier, later in pairwise(fires))
    assert all(fire.tzinfo is UTC and (fire.second, fire.microsecond) == (0, 0) for fire in fires[1:])


def test_start_and_end_bound_the_fires_inclusively():
    trigger = build(
        {
            "type": "cron",
            "cron": "0 6 * * *",
            "timezone": BERLIN,
            "start": "2026-06-01T06:00",
            "end": "2026-06-02T06:00",
        }
    )
    assert [trigger.next_fire(_moment(text)) for text in ("2026-01-01", "2026-06-01 04:00", "2026-06-02 04:00")] == [
        _moment("2026-06-01 04:00"),
        _moment("2026-06-02 04:00"),
        None,
    ]


def test_apscheduler_asks_from_now_on_or_after_the_previous_fire():
    trigger = build({"type": "cron", "cron": "0 * * * *", "timezone": NEW_YORK})
    assert isinstance(trigger, CronTrigger5)
    assert isinstance(trigger, BaseTrigger)
    now = datetime(2026, 11, 1, 1, 0, tzinfo=ZoneInfo(NEW_YORK), fold=1)
    assert trigger.get_next_fire_time(None, now) == _moment("2026-11-01 06:00")
    assert trigger.get_next_fire_time(_moment("2026-11-01 05:00"), now) == _moment("2026-11-01 06:00")
    assert trigger.get_next_fire_time(now, now) == _moment("2026-11-01 07:00")


def test_question_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        build({"type": "cron", "cron": "* * * * *"}).next_fire(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_far_ends_of_the_calendar_do_not_overflow():
    trigger = build({"type": "cron", "cron": "0 0 1 1 *", "timezone": BERLIN})
    assert trigger.next_fire(datetime.min.replace(tzinfo=UTC)) is not None
    assert trigger.next_fire(datetime.max.replace(tzinfo=UTC)) is None

"""What a due trigger fires: missed fires, catch-up, clocks that go back, pause, jitter, a full queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.triggers import FirePlan, InvalidTrigger, TriggerRow, build, first_fire_at, missed_fires, plan_fires

HOURLY = {"type": "cron", "cron": "0 * * * *"}
ONCE = {"type": "date", "at": "2026-01-01T12:00Z"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-{text}").replace(tzinfo=UTC)


def row(config=HOURLY, due="01 12:00", last="01 11:00", **changes) -> TriggerRow:
    next_fire_at, last_logical = (at(text) if text else None for text in (due, last))
    return replace(TriggerRow(1, config, next_fire_at, last_logical), **changes)


@pytest.mark.parametrize(
    ("config", "last", "now", "catchup", "fires"),
    [
        (HOURLY, "01 11:00", "01 11:59", False, []),
        (HOURLY, "01 11:00", "01 12:00", False, ["01 12:00"]),
        (HOURLY, "01 11:00", "01 15:30", False, ["01 15:00"]),
        (HOURLY, "01 11:00", "01 15:30", True, ["01 12:00", "01 13:00", "01 14:00"]),
        (HOURLY, "01 14:00", "01 15:30", True, ["01 15:00"]),
        (HOURLY, "01 15:00", "01 15:30", True, []),
        (HOURLY, "01 15:00", "01 09:00", True, []),
        (HOURLY, "01 15:00", "01 09:00", False, []),
        (ONCE, "01 11:00", "05 00:00", False, ["01 12:00"]),
        (ONCE, "01 11:00", "05 00:00", True, ["01 12:00"]),
        (ONCE, "01 12:00", "05 00:00", True, []),
        ({"type": "interval", "every": "7m"}, "01 00:00", "01 00:30", False, ["01 00:28"]),
    ],
)
def test_missed_fires(config, last, now, catchup, fires):
    found = missed_fires(build(config), at(last), at(now), catchup=catchup, limit=3)
    assert found == [at(text) for text in fires]


CRONS = st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "* * 1 * *", "15 */5 * * 1"])


@settings(deadline=None)
@given(CRONS, st.timedeltas(timedelta(), timedelta(days=40)), st.timedeltas(timedelta(), timedelta(hours=40)))
def test_latest_missed_fire_is_the_last_of_all_missed_ones(cron, age, gap):
    trigger = build({"type": "cron", "cron": cron, "timezone": "Europe/Berlin"})
    last, now = at("01 00:00") + age, at("01 00:00") + age + gap
    all_missed = missed_fires(trigger, last, now, catchup=True, limit=10**6)
    assert missed_fires(trigger, last, now, catchup=False) == all_missed[-1:]


def test_latest_of_ten_missed_years_of_minutes_takes_few_questions():
    class Counting:
        questions = 0

        def next_fire(self, after):
            self.questions += 1
            return build({"type": "cron", "cron": "* * * * *"}).next_fire(after)

    trigger = Counting()
    now = at("01 00:00")
    assert missed_fires(trigger, now - timedelta(days=3650), now, catchup=False) == [now]
    assert trigger.questions < 100


@pytest.mark.parametrize(
    ("case", "now", "plan"),
    [
        (row(), "01 11:59", FirePlan((), at("01 12:00"))),
        (row(), "01 12:00", FirePlan((at("01 12:00"),), at("01 13:00"))),
        (row(), "01 12:59", FirePlan((at("01 12:00"),), at("01 13:00"))),
        (row(), "01 15:30", FirePlan((at("01 15:00"),), at("01 16:00"))),
        (row(last=None), "01 12:00", FirePlan((at("01 12:00"),), at("01 13:00"))),
        (row(due=None), "09 00:00", FirePlan((), None)),
        (row(catchup=True), "01 13:30", FirePlan((at("01 12:00"), at("01 13:00")), at("01 14:00"))),
        (row(catchup=True), "01 20:00", FirePlan((at("01 12:00"), at("01 13:00"), at("01 14:00")), at("01 15:00"))),
        (row(ONCE), "03 00:00", FirePlan((at("01 12:00"),), None)),
        (row(ONCE, catchup=True), "03 00:00", FirePlan((at("01 12:00"),), None)),
        (row(paused=True), "01 15:30", FirePlan((), at("01 16:00"))),
        (row(ONCE, paused=True), "03 00:00", FirePlan((), None)),
        # The clock went back after a fire, or the row was left behind: nothing fires again.
        (row(due="01 12:00", last="01 14:00"), "01 12:30", FirePlan((), at("01 15:00"))),
        (row(due="01 12:00", last="01 14:00", catchup=True), "01 12:30", FirePlan((), at("01 15:00"))),
        # What lies before next_fire_at is history, as after a pause.
        (row(due="01 12:00", last="01 05:00", catchup=True), "01 12:10", FirePlan((at("01 12:00"),), at("01 13:00"))),
        # A next_fire_at that is no fire of the trigger: on to the next one.
        (row(due="01 12:10", last=None), "01 12:30", FirePlan((), at("01 13:00"))),
    ],
)
def test_plan_of_a_row(case, now, plan):
    assert plan_fires(case, at(now), limit=3) == plan


@pytest.mark.parametrize(
    ("catchup", "room", "plan"),
    [
        (False, 1, FirePlan((at("01 15:00"),), at("01 16:00"))),
        (False, 0, FirePlan((), at("01 16:00"), skipped=at("01 15:00"))),
        (False, -3, FirePlan((), at("01 16:00"), skipped=at("01 15:00"))),
        (True, 0, FirePlan((), at("01 12:00"), held=True)),
        (True, 2, FirePlan((at("01 12:00"), at("01 13:00")), at("01 14:00"), held=True)),
        (True, 4, FirePlan((at("01 12:00"), at("01 13:00"), at("01 14:00"), at("01 15:00")), at("01 16:00"))),
    ],
)
def test_full_queue_skips_the_fire_or_holds_the_catch_up(catchup, room, plan):
    assert plan_fires(row(catchup=catchup), at("01 15:30"), room=room) == plan


def test_new_trigger_begins_from_now():
    assert first_fire_at(1, HOURLY, at("01 12:00")) == at("01 13:00")
    assert first_fire_at(1, ONCE, at("01 12:00")) is None


def test_row_that_cannot_be_used_says_so():
    with pytest.raises(InvalidTrigger, match="not known"):
        plan_fires(row({**HOURLY, "timezone": "Mars/Olympus"}), at("01 12:00"))


def test_row_read_in_a_zoned_session_plans_the_same():
    new_york = ZoneInfo("America/New_York")
    config = {"type": "cron", "cron": "*/30 * * * *", "timezone": "America/New_York"}
    due = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)  # 01:00 for the second time
    plan = plan_fires(
        TriggerRow(1, config, due.astimezone(new_york)), (due + timedelta(minutes=1)).astimezone(new_york)
    )
    assert plan == FirePlan((due,), due + timedelta(minutes=30))


JITTERED = {**HOURLY, "jitter": "90m"}


def simulate(catchup: bool, step: timedelta, hours: int) -> list[datetime]:
    """Run a row as the scheduler does and return its logical dates."""
    start = now = at("01 00:30")
    state = TriggerRow(7, JITTERED, first_fire_at(7, JITTERED, start), catchup=catchup)
    fired = []
    while now < start + timedelta(hours=hours):
        plan = plan_fires(state, now)
        assert plan.next_fire_at > now
        fired += plan.fires
        state = replace(state, next_fire_at=plan.next_fire_at, last_logical=fired[-1] if fired else None)
        now += step
    return fired


def test_jitter_delays_each_fire_and_changes_no_logical_date():
    fires = simulate(catchup=True, step=timedelta(seconds=30), hours=40)
    assert fires == [at("01 01:00") + n * timedelta(hours=1) for n in range(len(fires))]
    assert len(fires) >= 38
    assert simulate(catchup=True, step=timedelta(hours=5), hours=40)[:30] == fires[:30]


def test_jitter_is_the_same_whenever_it_is_asked_for_and_differs_between_rows():
    once = [first_fire_at(row_id, JITTERED, at("01 00:30")) for row_id in range(50)]
    assert once == [first_fire_at(row_id, JITTERED, at("01 00:30")) for row_id in range(50)]
    assert all(at("01 01:00") <= moment < at("01 02:30") for moment in once)
    assert len(set(once)) == 50


def test_jittered_fire_waits_for_its_delay():
    due = first_fire_at(7, JITTERED, at("01 00:30"))
    waiting = TriggerRow(7, JITTERED, due)
    assert plan_fires(waiting, due - timedelta(microseconds=1)).fires == ()
    assert at("01 01:00") in plan_fires(replace(waiting, catchup=True), due).fires


@given(
    st.lists(st.integers(-90, 600), min_size=5, max_size=40),
    st.booleans(),
    st.sampled_from(["*/20 * * * *", "0 */3 * * *", "30 2 * * *"]),
)
def test_no_logical_date_fires_twice_and_order_holds_whatever_the_clock_does(steps, catchup, cron):
    config = {"type": "cron", "cron": cron, "timezone": "Europe/Berlin"}
    now = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
    state = TriggerRow(1, config, first_fire_at(1, config, now), catchup=catchup)
    fired, latest = [], now
    for minutes in steps:
        now += timedelta(minutes=minutes)
        latest = max(latest, now)
        plan = plan_fires(state, now, limit=4)
        fired += plan.fires
        state = replace(state, next_fire_at=plan.next_fire_at, last_logical=fired[-1] if fired else None)
    assert fired == sorted(set(fired))
    if catchup:
        expected = missed_fires(
            build(config), datetime(2026, 10, 24, 20, 0, tzinfo=UTC), latest, catchup=True, limit=10**4
        )
        assert fired == expected[: len(fired)]  # none left out

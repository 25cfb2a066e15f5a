"""Triggers on a clock of the test's own: what fires, how often, and what does not, through the real tables."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from agentflow.catalog import set_paused
from agentflow.runs import show_run
from agentflow.triggers import first_fire_at
from scheduler import fires as fires_module
from scheduler.fires import QUEUE_MAX, Fires
from tests.storage_kit import apply, make_spec, rows, value

START = datetime(2031, 3, 1, tzinfo=UTC)
HOURLY = {"type": "cron", "cron": "0 * * * *"}


def at(moment):
    """`2031-03-01T06:00` in UTC."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


class Clockwork:
    """A database whose triggers go by `now`, and schedulers that fire them."""

    def __init__(self, engine):
        self._engine = engine
        self.now = START
        self.created = 0

    def apply(self, name="flow", **keys):
        """Apply a workflow; its triggers begin now, on the test's clock."""
        with self._engine.begin() as connection:
            apply(connection, make_spec(name, **keys))
            for row in rows(connection, "SELECT id, config FROM trigger WHERE active AND NOT paused"):
                following = first_fire_at(row.id, row.config, self.now)
                connection.execute(
                    text("UPDATE trigger SET next_fire_at = :at WHERE id = :id"), {"at": following, "id": row.id}
                )

    def scheduler(self):
        """Another scheduler's service."""

        def created():
            self.created += 1

        return Fires(self._engine, created, now=lambda _connection: self.now)

    def tick(self, moment=None, scheduler=None):
        """Let the clock show this moment and fire; the seconds until the next look."""
        if moment is not None:
            self.now = at(moment) if isinstance(moment, str) else moment
        return (scheduler or self.scheduler()).work()

    def dates(self, name="flow"):
        """Logical dates of a workflow's runs, in the order in which they were made."""
        statement = """SELECT r.logical_date FROM run r JOIN workflow w ON w.id = r.workflow_id
            WHERE w.name = :name ORDER BY r.created_at, r.logical_date"""
        with self._engine.begin() as connection:
            return [f"{date:%m-%dT%H:%M}" for (date,) in rows(connection, statement, name=name)]

    def do(self, statement, **parameters):
        """Rows of a statement, or none."""
        with self._engine.begin() as connection:
            found = connection.execute(text(statement), parameters)
            return found.all() if found.returns_rows else []

    def end_runs(self):
        """Every queued run ends."""
        self.do("UPDATE run SET state = 'cancelled', finished_at = created_at WHERE state = 'queued'")


@pytest.fixture
def clock(engine):
    return Clockwork(engine)


# -- each fire once ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("trigger", "moments", "expected"),
    [
        (HOURLY, ["00:59", "01:00", "01:30", "02:00"], ["03-01T01:00", "03-01T02:00"]),
        ({"type": "interval", "every": "20m"}, ["00:19", "00:20", "00:41"], ["03-01T00:20", "03-01T00:40"]),
        ({"type": "date", "at": "2031-03-01T00:30:00Z"}, ["00:29", "00:30", "00:31", "05:00"], ["03-01T00:30"]),
        ({"type": "calendar", "every": {"days": 1}, "at": "06:00"}, ["05:59", "06:00", "07:00"], ["03-01T06:00"]),
        # Both bounds are included, and are in the trigger's zone.
        (HOURLY | {"start": "2031-03-01T02:00"}, ["01:00", "02:00"], ["03-01T02:00"]),
        (HOURLY | {"end": "2031-03-01T01:00"}, ["01:00", "02:00", "03:00"], ["03-01T01:00"]),
        (HOURLY | {"start": "2031-03-01T03:00", "timezone": "Europe/Berlin"}, ["01:00", "02:00"], ["03-01T02:00"]),
        (
            {"type": "interval", "every": "1h", "start": "2031-03-01T00:10", "end": "2031-03-01T01:10"},
            ["00:05", "00:10", "01:10", "02:10"],
            ["03-01T00:10", "03-01T01:10"],
        ),
    ],
)
def test_a_trigger_fires_when_it_is_due_and_once(clock, trigger, moments, expected):
    clock.apply(triggers=[trigger])
    for moment in moments:
        clock.tick(f"2031-03-01T{moment}")
        clock.tick()
    assert clock.dates() == expected


def test_an_interval_without_a_start_is_anchored_at_the_epoch_not_at_the_apply(clock):
    clock.now = at("2031-03-01T10:07:33")
    clock.apply(triggers=[{"type": "interval", "every": "45m"}])
    clock.tick("2031-03-01T12:00")
    ((date,),) = clock.do("SELECT logical_date FROM run")
    assert (date - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(minutes=45) == timedelta(0)


@pytest.mark.parametrize("catchup", [False, True])
def test_jitter_puts_a_fire_off_by_what_follows_from_its_date_and_keeps_the_date(clock, catchup):
    clock.apply(triggers=[HOURLY | {"jitter": "30m", "catchup": catchup}])
    scheduler = clock.scheduler()
    for hour in (1, 2, 3):
        ((due,),) = clock.do("SELECT next_fire_at FROM trigger")
        assert timedelta(0) <= due - at(f"2031-03-01T{hour:02}:00") < timedelta(minutes=30)
        clock.tick(due - timedelta(microseconds=1), scheduler)
        assert len(clock.dates()) == hour - 1
        clock.tick(due, clock.scheduler())  # another one, or after a restart: the delay is the same
    assert clock.dates() == ["03-01T01:00", "03-01T02:00", "03-01T03:00"]


@pytest.mark.parametrize(
    ("catchup", "expected"), [(False, ["03-01T05:00"]), (True, [f"03-01T0{h}:00" for h in range(1, 6)])]
)
def test_after_a_downtime_the_latest_missed_fire_runs_or_every_one(clock, catchup, expected):
    clock.apply(triggers=[HOURLY | {"catchup": catchup}])
    clock.tick("2031-03-01T05:30")
    clock.tick("2031-03-01T05:40")
    assert clock.dates() == expected


def test_many_triggers_fire_in_few_statements(clock, engine):
    """Ten thousand workflows that are due in the same minute must not be late: cost grows by batches."""
    for number in range(30):
        clock.apply(f"flow-{number}", triggers=[HOURLY])
    sent = []
    event.listen(engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    clock.tick("2031-03-01T01:00")
    assert clock.do("SELECT count(*) FROM run") == [(30,)]
    assert len(sent) < 15


def test_what_a_fired_run_carries(clock, engine):
    clock.apply(
        params={"city": {"type": "string", "default": "Berlin"}, "n": {"type": "integer", "default": 1}},
        triggers=[HOURLY | {"params": {"city": "Rome"}}],
    )
    clock.tick("2031-03-01T01:00:02")
    ((run, trigger, actor, note),) = clock.do("SELECT id, trigger_id, actor, note FROM run")
    with engine.begin() as connection:
        document = show_run(connection, str(run))
        assert value(connection, "SELECT id FROM trigger") == trigger
        fire = rows(connection, "SELECT trigger_id, logical_date, run_id, outcome FROM fire")
    assert {k: document[k] for k in ("state", "triggered_by", "params", "logical_date", "version")} == {
        "state": "queued",
        "triggered_by": "cron",
        "params": {"city": "Rome", "n": 1},
        "logical_date": "2031-03-01T01:00:00.000000Z",
        "version": 1,
    }
    assert (actor, note) == ("system", "")
    assert [tuple(row) for row in fire] == [(trigger, at("2031-03-01T01:00"), run, "run")]


def test_a_run_by_a_trigger_is_of_the_version_published_then(clock):
    clock.apply(triggers=[HOURLY])
    clock.tick("2031-03-01T01:00")
    clock.apply(triggers=[HOURLY], max_active_runs=2)
    clock.tick("2031-03-01T02:00")
    versions = clock.do(
        "SELECT v.version FROM run r JOIN workflow_version v ON v.id = r.version_id ORDER BY r.logical_date"
    )
    assert [version for (version,) in versions] == [1, 2]


def test_schedulers_side_by_side_fire_each_date_once(clock):
    names = [f"flow-{number}" for number in range(6)]
    for name in names:
        clock.apply(name, triggers=[HOURLY | {"catchup": True}, {"type": "interval", "every": "30m"}])
    barrier, errors = threading.Barrier(4), []

    def work():
        scheduler = clock.scheduler()
        for _ in range(5):
            try:
                barrier.wait(30)
                scheduler.work()
            except Exception as error:  # noqa: BLE001 - shown by the assert below
                errors.append(error)

    clock.now = at("2031-03-01T05:10")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    for name in names:
        assert sorted(clock.dates(name)) == [*(f"03-01T0{hour}:00" for hour in range(1, 6)), "03-01T05:00"]
    assert clock.do("SELECT count(*), count(DISTINCT (trigger_id, logical_date)), count(run_id) FROM fire") == [
        (36, 36, 36)
    ]


# -- missed fires ------------------------------------------------------------------------------------------------------
def test_without_catchup_only_the_latest_missed_fire_is_made_up(clock):
    clock.apply(triggers=[HOURLY])
    clock.tick("2031-03-04T10:30")
    assert clock.dates() == ["03-04T10:00"]
    clock.tick("2031-03-04T11:00")
    assert clock.dates() == ["03-04T10:00", "03-04T11:00"]


def test_with_catchup_every_missed_fire_is_made_up_in_order(clock):
    clock.apply(triggers=[HOURLY | {"catchup": True}])
    clock.tick("2031-03-02T03:30")
    assert clock.dates() == [f"03-01T{hour:02}:00" for hour in range(1, 24)] + [
        f"03-02T{hour:02}:00" for hour in range(4)
    ]


def test_a_long_catchup_is_made_up_in_bounded_transactions(clock, monkeypatch):
    monkeypatch.setattr(fires_module, "RUNS_MAX", 7)
    sizes = []
    real = fires_module.notify_ready

    def notify(connection):
        sizes.append(value(connection, "SELECT count(*) FROM run"))
        real(connection)

    monkeypatch.setattr(fires_module, "notify_ready", notify)
    for name in ("one", "two"):
        clock.apply(name, triggers=[HOURLY | {"catchup": True}])
    clock.tick("2031-03-01T20:00")
    assert sizes == [7, 14, 21, 28, 35, 40]
    assert len(clock.dates("one")) == len(clock.dates("two")) == 20


def test_years_of_missed_minutes_cost_no_time(clock):
    clock.apply(triggers=[{"type": "cron", "cron": "* * * * *"}])
    clock.tick("2035-03-01T00:00:30")
    assert clock.dates() == ["03-01T00:00"]


# -- full queues -------------------------------------------------------------------------------------------------------
def fill_queue(clock, count=QUEUE_MAX):
    clock.do(
        """INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor)
        SELECT gen_random_uuid(), 1, id, published_version_id, 'queued', 'cli', '{}', 'test'
        FROM workflow, generate_series(1, :count)""",
        count=count,
    )


def outcomes(clock):
    return [
        (f"{date:%H:%M}", outcome) for date, outcome in clock.do("SELECT logical_date, outcome FROM fire ORDER BY 1")
    ]


def test_with_a_full_queue_a_fire_is_skipped_and_recorded(clock, caplog):
    clock.apply(triggers=[HOURLY])
    fill_queue(clock)
    clock.tick("2031-03-01T01:00")
    assert outcomes(clock) == [("01:00", "skipped")]
    assert "fire_skipped" in caplog.messages
    assert clock.do("SELECT count(*) FROM run WHERE triggered_by = 'cron'") == [(0,)]
    clock.end_runs()
    clock.tick("2031-03-01T01:30")  # what was skipped is not made up
    clock.tick("2031-03-01T02:00")
    assert outcomes(clock) == [("01:00", "skipped"), ("02:00", "run")]


def test_with_a_full_queue_a_catchup_is_held_and_goes_on_later(clock):
    clock.apply(triggers=[HOURLY | {"catchup": True}])
    fill_queue(clock, QUEUE_MAX - 2)
    assert clock.tick("2031-03-01T05:00") == fires_module.HELD_AGAIN
    assert outcomes(clock) == [("01:00", "run"), ("02:00", "run")]
    clock.tick()
    assert len(outcomes(clock)) == 2
    clock.end_runs()
    clock.tick("2031-03-01T05:10")
    assert outcomes(clock) == [(f"0{hour}:00", "run") for hour in range(1, 6)]


def test_two_triggers_of_a_workflow_share_its_queue(clock):
    clock.apply(triggers=[HOURLY | {"catchup": True}, HOURLY | {"catchup": True, "name": "second"}])
    clock.tick("2031-03-10T00:00")
    assert clock.do("SELECT count(*) FROM run") == [(QUEUE_MAX,)]


def test_held_catchups_do_not_keep_others_from_their_turn(clock, monkeypatch):
    monkeypatch.setattr(fires_module, "BATCH", 2)
    for number in range(3):
        clock.apply(f"held-{number}", triggers=[HOURLY | {"catchup": True}])
    fill_queue(clock)
    clock.now = at("2031-03-01T04:00")
    clock.apply("late", triggers=[HOURLY])
    clock.do("UPDATE trigger SET next_fire_at = '2031-03-01T01:00Z' WHERE config ->> 'catchup' = 'true'")
    clock.tick("2031-03-01T05:00")
    assert clock.dates("late") == ["03-01T05:00"]


def test_dates_that_a_backfill_has_run_are_not_fired_again_and_hide_none_before_them(clock):
    clock.apply(triggers=[HOURLY | {"catchup": True}])
    clock.do("""INSERT INTO fire (trigger_id, logical_date, outcome)
        SELECT id, timestamptz '2031-03-01T03:00Z', 'backfill' FROM trigger""")
    clock.tick("2031-03-01T04:30")
    assert clock.dates() == ["03-01T01:00", "03-01T02:00", "03-01T04:00"]


def test_queued_runs_of_a_backfill_do_not_fill_the_queue(clock):
    clock.apply(triggers=[HOURLY])
    fill_queue(clock)
    clock.do("UPDATE run SET backfill_id = gen_random_uuid()")
    clock.tick("2031-03-01T01:00")
    assert outcomes(clock) == [("01:00", "run")]


# -- pauses ------------------------------------------------------------------------------------------------------------
def test_a_paused_trigger_does_not_fire(clock):
    clock.apply(triggers=[HOURLY | {"paused": True}, {"type": "interval", "every": "2h"}])
    clock.tick("2031-03-01T03:00")
    assert clock.dates() == ["03-01T02:00"]


@pytest.mark.parametrize("catchup", [False, True])
def test_fires_missed_while_the_workflow_is_paused_are_not_made_up(clock, engine, catchup):
    clock.apply(triggers=[HOURLY | {"catchup": catchup}])
    with engine.begin() as connection:
        set_paused(connection, "flow", True, "test")
    clock.tick("2031-03-01T02:30")
    assert clock.dates() == []
    assert clock.do("SELECT next_fire_at FROM trigger") == [(at("2031-03-01T03:00"),)]
    clock.do("UPDATE workflow SET paused = false")
    clock.tick("2031-03-01T02:45")
    clock.tick("2031-03-01T03:00")
    assert clock.dates() == ["03-01T03:00"]


def test_a_missing_workflow_does_not_fire(clock):
    clock.apply(triggers=[HOURLY])
    clock.do("UPDATE workflow SET missing = true")
    clock.tick("2031-03-01T02:30")
    clock.do("UPDATE workflow SET missing = false")
    clock.tick("2031-03-01T02:45")
    assert clock.dates() == []


# -- changes and clocks that jump --------------------------------------------------------------------------------------
def test_when_the_clock_jumps_back_nothing_fires_twice(clock):
    clock.apply(triggers=[HOURLY])
    clock.tick("2031-03-01T05:00")
    clock.tick("2031-03-01T02:00")
    clock.tick("2031-03-01T05:00")
    assert clock.dates() == ["03-01T05:00"]
    # Even if somebody starts the trigger again in the repeated time.
    clock.do("UPDATE trigger SET next_fire_at = '2031-03-01T04:00Z'")
    clock.tick("2031-03-01T05:30")
    assert clock.dates() == ["03-01T05:00"]
    clock.do("UPDATE trigger SET next_fire_at = '2031-03-01T05:00Z'")
    clock.tick("2031-03-01T06:00")
    assert clock.dates() == ["03-01T05:00", "03-01T06:00"]


def test_changing_a_schedule_fires_neither_the_old_nor_a_past_time(engine):
    """On the database's own clock, as `apply` goes by it."""
    with engine.begin() as connection:
        apply(connection, make_spec(triggers=[{"type": "interval", "every": "1h", "name": "n"}]))
        connection.execute(text("UPDATE trigger SET next_fire_at = clock_timestamp() - interval '1 minute'"))
        apply(connection, make_spec(triggers=[{"type": "interval", "every": "365d", "name": "n"}]))
    Fires(engine, lambda: None).work()
    with engine.begin() as connection:
        assert value(connection, "SELECT count(*) FROM run") == 0
        assert value(connection, "SELECT count(*) FROM fire") == 0


def test_an_apply_that_leaves_a_due_trigger_unchanged_does_not_lose_its_fire(engine):
    with engine.begin() as connection:
        apply(connection, make_spec(triggers=[{"type": "interval", "every": "1h"}]))
        connection.execute(text("UPDATE trigger SET next_fire_at = next_fire_at - interval '1 hour'"))
        apply(connection, make_spec(triggers=[{"type": "interval", "every": "1h"}], max_active_runs=1))
    Fires(engine, lambda: None).work()
    with engine.begin() as connection:
        assert value(connection, "SELECT count(*) FROM run") == 1


def test_a_retired_trigger_does_not_fire(clock):
    clock.apply(triggers=[HOURLY])
    clock.apply()
    clock.tick("2031-03-01T02:00")
    assert clock.dates() == []


# -- broken rows -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "config",
    [
        '{"type": "cron", "cron": "0 * * * *", "timezone": "Mars/Olympus"}',
        '{"type": "cron"}',
        '{"type": "interval", "every": 7}',
        '{"type": "lunar"}',
    ],
)
def test_a_broken_trigger_stops_nobody_else_and_is_told_once(clock, caplog, config):
    clock.apply("broken", triggers=[HOURLY | {"name": "n"}])
    clock.apply("well", triggers=[HOURLY])
    clock.do(f"UPDATE trigger SET config = '{config}' WHERE identity = 'n'")
    scheduler = clock.scheduler()
    wait = clock.tick("2031-03-01T01:00", scheduler)
    clock.tick("2031-03-01T02:00", scheduler)
    assert clock.dates("well") == ["03-01T01:00", "03-01T02:00"]
    assert clock.dates("broken") == []
    assert caplog.messages.count("trigger_unusable") == 1
    assert wait > 1  # a row that stays due does not keep the service spinning


def test_a_trigger_whose_params_do_not_fit_fires_again_once_the_workflow_is_mended(clock, caplog):
    string = {"n": {"type": "string"}}
    trigger = HOURLY | {"name": "n", "params": {"n": "three"}}
    clock.apply(params=string, triggers=[trigger])
    clock.do("UPDATE workflow_version SET spec = CAST(replace(CAST(spec AS text), 'string', 'integer') AS json)")
    scheduler = clock.scheduler()
    clock.tick("2031-03-01T01:00", scheduler)
    assert "trigger_unusable" in caplog.messages
    assert clock.dates() == []
    clock.apply(params=string, triggers=[trigger], max_active_runs=3)
    wait = clock.tick("2031-03-01T01:59:58", scheduler)
    assert wait <= 2  # it is looked at when it is due, not at the next poll
    clock.tick("2031-03-01T02:00", scheduler)
    assert clock.dates() == ["03-01T02:00"]


# -- daylight saving, through the whole path ---------------------------------------------------------------------------
BERLIN = "Europe/Berlin"  # 2031: forward on March 30 at 02:00 (01:00 UTC), back on October 26 at 03:00 (01:00 UTC)


@pytest.mark.parametrize(
    ("cron", "start", "hours", "expected"),
    [
        ("30 2 * * *", "2031-03-29T00:00", 48, ["03-29T01:30", "03-30T01:00"]),
        ("30 1 * * *", "2031-03-29T12:00", 36, ["03-30T00:30", "03-30T23:30"]),
        ("30 2 * * *", "2031-10-25T12:00", 36, ["10-26T00:30"]),
        ("0 * * * *", "2031-10-25T23:30", 4, ["10-26T00:00", "10-26T01:00", "10-26T02:00", "10-26T03:00"]),
        ("*/30 * * * *", "2031-03-30T00:15", 2, ["03-30T00:30", "03-30T01:00", "03-30T01:30", "03-30T02:00"]),
    ],
)
@pytest.mark.parametrize("step", [timedelta(minutes=30), None], ids=["running", "catching up"])
def test_the_nights_when_the_clocks_change(clock, cron, start, hours, expected, step):
    clock.now = at(start)
    clock.apply(triggers=[{"type": "cron", "cron": cron, "timezone": BERLIN, "catchup": True}])
    end = clock.now + timedelta(hours=hours)
    scheduler = clock.scheduler()
    if step is None:
        clock.tick(end, scheduler)
    else:
        while clock.now < end:
            clock.tick(clock.now + step, scheduler)
    assert clock.dates() == expected


# -- the service -------------------------------------------------------------------------------------------------------
def test_the_service_sleeps_until_the_next_fire_but_never_longer_than_its_poll(clock):
    assert clock.tick(START) == fires_module.POLL
    clock.apply(triggers=[HOURLY])
    assert clock.tick("2031-03-01T00:59:58.500000") == pytest.approx(1.5)
    assert clock.tick("2031-03-01T00:10") == fires_module.POLL
    assert clock.created == 0
    clock.tick("2031-03-01T01:00")
    assert clock.created == 1


def test_schedulers_are_woken_by_a_fire(clock, engine):
    clock.apply(triggers=[HOURLY])
    with engine.connect() as listener:
        listener.execution_options(isolation_level="AUTOCOMMIT").execute(text("LISTEN agentflow_ready"))
        clock.tick("2031-03-01T01:00")
        notes = list(listener.connection.driver_connection.notifies(timeout=10, stop_after=1))
    assert [note.channel for note in notes] == ["agentflow_ready"]

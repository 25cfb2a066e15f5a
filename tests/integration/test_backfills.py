"""Backfills: which dates they run, in which order, how many at once, and how they end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from agentflow import backfills, runs
from agentflow.catalog import list_events, set_paused
from agentflow.errors import Conflict, NotFound, ParamError, UsageError
from agentflow.states import TriggeredBy
from executors.stub import fail, succeed
from tests.engine_kit import Kit

DAILY = {"type": "cron", "cron": "0 6 * * *", "timezone": "Europe/Berlin", "paused": True}
WEEK = {"from_": "2026-03-02", "to": "2026-03-06"}


def asked(**keys):
    """A week of dates, unless told otherwise."""
    return backfills.Asked(**{**WEEK, **keys})


def made(kit, name="flow", *, confirmed=False, **keys):
    """A backfill, not moved yet; its id."""
    return kit.call(backfills.create_backfill, name, asked(**keys), confirmed=confirmed, actor="cli:ada")["id"]


def preview_of(kit, **keys):
    return kit.call(backfills.preview_backfill, "flow", asked(**keys))


def show(kit, backfill):
    return kit.call(backfills.show_backfill, backfill)


def dates(kit, backfill):
    """Days and states of a backfill's runs, in the order in which they were made."""
    rows = kit.rows(
        "SELECT logical_date, state FROM run WHERE backfill_id = CAST(:id AS uuid) ORDER BY created_at, logical_date",
        id=backfill,
    )
    return [(row.logical_date.day, row.state) for row in rows]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


@pytest.fixture
def flow(kit):
    kit.apply({"a": {}}, triggers=[DAILY], max_active_runs=2)
    return kit


# -- making runs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("reverse", "order"), [(False, [2, 3, 4, 5, 6]), (True, [6, 5, 4, 3, 2])])
def test_every_date_of_the_range_gets_one_run_in_order(flow, reverse, order):
    flow.stub.hold("a")
    backfill = made(flow, reverse=reverse, max_active_runs=1)
    for number in range(1, 6):
        flow.settle()
        assert dates(flow, backfill) == [(day, "success") for day in order[: number - 1]] + [
            (order[number - 1], "running")
        ]
        flow.stub.release("a")
        flow.stub.hold("a") if number < 5 else None
    flow.settle()
    shown = show(flow, backfill)
    assert (shown["state"], shown["finished_at"] is not None) == ("success", True)
    assert shown["counts"] == {
        "total": 5, "skipped": 0, "left": 0, "done": 5,
        "queued": 0, "running": 0, "success": 5, "failed": 0, "cancelled": 0,
    }  # fmt: skip


def test_what_its_runs_carry(flow):
    flow.apply(
        {"a": {}},
        params={"n": {"type": "integer"}, "m": {"type": "integer", "default": 1}, "k": {"type": "integer"}},
        triggers=[DAILY | {"params": {"n": 1, "k": 2}}],
    )
    backfill = made(flow, params={"n": 5}, to="2026-03-02")
    flow.apply({"a": {}}, params={"other": {"type": "string", "default": ""}}, triggers=[DAILY])  # a newer version
    flow.settle()
    row = flow.row("SELECT * FROM run")
    assert (row.triggered_by, row.actor, str(row.backfill_id)) == ("backfill", "cli:ada", backfill)
    assert row.logical_date == datetime(2026, 3, 2, 5, tzinfo=UTC)
    document = flow.show(str(row.id))
    assert (document["params"], document["version"], document["backfill"]) == ({"n": 5, "m": 1, "k": 2}, 2, backfill)
    items, _ = flow.call(runs.list_runs, backfill=backfill)
    assert [item["id"] for item in items] == [str(row.id)]


def test_no_more_of_it_are_open_than_its_limit_and_never_all_at_once(flow):
    flow.stub.hold("a")
    backfill = made(flow, max_active_runs=3, from_="2025-01-01", to="2025-12-31")
    flow.settle()
    assert dates(flow, backfill) == [(day, "running") for day in (1, 2, 3)]
    assert show(flow, backfill)["counts"]["left"] == 362
    flow.call(backfills.cancel_backfill, backfill, running=True, actor="test")


def test_its_runs_and_all_others_have_limits_of_their_own(flow):
    flow.stub.hold("a")
    live = [flow.create() for _ in range(3)]
    backfill = made(flow, max_active_runs=2)
    flow.settle()
    assert [flow.state(run) for run in live] == ["running", "running", "queued"]
    assert dates(flow, backfill) == [(2, "running"), (3, "running")]
    flow.stub.release("a")
    flow.settle()
    assert {flow.state(run) for run in live} == {"success"}
    assert show(flow, backfill)["state"] == "success"


@pytest.fixture
def rival(shared_engine, tmp_path):
    """A second scheduler on the same database."""
    kit = Kit(shared_engine, tmp_path / "rival")
    yield kit
    kit.close()


def test_two_schedulers_run_each_date_once(flow, rival):
    backfill = made(flow, to="2026-04-10", max_active_runs=7)
    for _ in range(60):
        for one in (flow, rival):
            one.starter.work()
            one.tick()
            one.ends.work()
    flow.settle()
    found = [day for day, _ in dates(flow, backfill)]
    assert len(found) == 40
    assert show(flow, backfill)["state"] == "success"
    assert len(flow.rows("SELECT DISTINCT logical_date FROM run")) == 40


def test_a_failed_run_makes_it_failed_and_does_not_stop_it(flow):
    flow.stub.script("a", fail(), succeed())
    backfill = made(flow, max_active_runs=1)
    flow.settle()
    assert sorted(dates(flow, backfill)) == [(2, "failed"), *((day, "success") for day in (3, 4, 5, 6))]
    assert show(flow, backfill)["state"] == "failed"


# -- dates that have a run -----------------------------------------------------------------------------------------------
#: How the run of the first day ended, what to run again, whether it is.
AGAIN = [
    ("success", "none", False), ("success", "failed", False), ("success", "all", True),
    ("failed", "none", False), ("failed", "failed", True), ("failed", "all", True),
    ("cancelled", "none", False), ("cancelled", "failed", True), ("cancelled", "all", True),
    ("running", "none", False), ("running", "failed", False), ("running", "all", False),
]  # fmt: skip


@pytest.mark.parametrize(("state", "reprocess", "again"), AGAIN)
def test_dates_with_a_run_are_run_again_as_asked(flow, state, reprocess, again):
    if state == "failed":
        flow.stub.script("a", fail())
    elif state != "success":
        flow.stub.hold("a")
    first = flow.create(logical_date=datetime(2026, 3, 2, 5, tzinfo=UTC))
    flow.settle()
    if state == "cancelled":
        flow.cancel(first)
        flow.settle()
    assert flow.state(first) == state
    preview = preview_of(flow, reprocess=reprocess)
    backfill = made(flow, reprocess=reprocess)
    flow.stub.release("a")
    flow.settle()
    days = {day for day, _ in dates(flow, backfill)}
    assert days == {3, 4, 5, 6} | ({2} if again else set())
    assert show(flow, backfill)["counts"]["skipped"] == (0 if again else 1)
    assert (preview["runs"], preview["skipped"]) == (len(days), 5 - len(days))
    assert preview["items"][0] == {
        "logical_date": "2026-03-02T05:00:00.000000Z",
        "run": first,
        "state": state,
        "action": "run" if again else "skip",
    }


def test_of_several_runs_of_a_date_the_newest_counts(flow):
    flow.stub.script("a", fail(), succeed())
    flow.create(logical_date=datetime(2026, 3, 2, 5, tzinfo=UTC))
    flow.settle()
    one = {"from_": "2026-03-02", "to": "2026-03-02", "reprocess": "failed"}
    made(flow, **one)
    flow.settle()
    again = made(flow, **one)
    flow.settle()
    assert dates(flow, again) == []
    assert show(flow, again)["state"] == "success"


def test_many_dates_with_runs_are_passed_over_in_steps(flow):
    flow.sql("""INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor,
        logical_date, created_at, started_at, finished_at)
        SELECT gen_random_uuid(), 1, w.id, w.published_version_id, 'success', 'cron', '{}', 'test',
          (d + time '06:00') AT TIME ZONE 'Europe/Berlin', now(), now(), now()
        FROM workflow w, generate_series(timestamp '2023-01-01', timestamp '2026-03-04', '1 day') AS d WHERE w.name = 'flow'""")
    backfill = made(flow, from_="2023-01-01")
    flow.settle()
    assert sorted(dates(flow, backfill)) == [(5, "success"), (6, "success")]
    assert show(flow, backfill)["counts"]["skipped"] == 3 * 365 + 1 + 31 + 28 + 4


# -- pausing and cancelling ----------------------------------------------------------------------------------------------
def test_a_paused_one_starts_nothing_until_it_is_unpaused(flow):
    flow.stub.hold("a")
    backfill = made(flow, max_active_runs=2)
    flow.settle()
    assert flow.call(backfills.set_backfill_paused, backfill, True, actor="test") == {"id": backfill, "changed": True}
    assert flow.call(backfills.set_backfill_paused, backfill, True, actor="test")["changed"] is False
    flow.stub.release("a")
    flow.settle()
    assert dates(flow, backfill) == [(2, "success"), (3, "success")]
    assert show(flow, backfill)["state"] == "paused"
    flow.call(backfills.set_backfill_paused, backfill, False, actor="test")
    flow.settle()
    assert len(dates(flow, backfill)) == 5
    assert show(flow, backfill)["state"] == "success"
    with pytest.raises(Conflict):
        flow.call(backfills.set_backfill_paused, backfill, True, actor="test")


def test_runs_that_wait_do_not_start_while_it_or_the_workflow_is_paused(flow):
    flow.call(set_paused, "flow", True, "test")
    answer = flow.call(backfills.create_backfill, "flow", asked(max_active_runs=2), actor="test")
    assert answer["paused"] is True
    flow.settle()
    assert dates(flow, answer["id"]) == [(2, "queued"), (3, "queued")]
    flow.call(backfills.set_backfill_paused, answer["id"], True, actor="test")
    flow.call(set_paused, "flow", False, "test")
    flow.settle()
    assert dates(flow, answer["id"]) == [(2, "queued"), (3, "queued")]
    flow.call(backfills.set_backfill_paused, answer["id"], False, actor="test")
    flow.settle()
    assert len(dates(flow, answer["id"])) == 5


@pytest.mark.parametrize("running", [False, True])
def test_a_cancelled_one_leaves_nothing_queued(flow, running):
    flow.stub.hold("a")
    backfill = made(flow, max_active_runs=2)
    flow.starter.work()
    flow.sql("UPDATE backfill SET max_active_runs = 4")
    flow.call(set_paused, "flow", True, "test")
    flow.starter.work()  # two more, which wait
    flow.call(set_paused, "flow", False, "test")
    assert [state for _, state in dates(flow, backfill)] == ["running", "running", "queued", "queued"]
    answer = flow.call(backfills.cancel_backfill, backfill, running=running, actor="cli:ada")
    assert answer == {"id": backfill, "changed": True, "cancelled": 4 if running else 2}
    flow.settle()
    flow.stub.release("a")
    flow.settle()
    states = [state for _, state in dates(flow, backfill)]
    assert states == (["cancelled"] * 4 if running else ["success", "success", "cancelled", "cancelled"])
    shown = show(flow, backfill)
    assert (shown["state"], shown["counts"]["left"]) == ("cancelled", 1)
    again = flow.call(backfills.cancel_backfill, backfill, running=True, actor="test")
    assert again == {"id": backfill, "changed": False, "cancelled": 0}


def test_who_did_what_is_in_the_audit_log(flow):
    backfill = made(flow)
    flow.call(backfills.set_backfill_paused, backfill, True, actor="cli:bob")
    flow.call(backfills.set_backfill_paused, backfill, False, actor="cli:bob")
    flow.settle()
    events, _ = flow.call(list_events, subject=backfill)
    assert [(event["action"], event["actor"]) for event in events][::-1] == [
        ("backfill.created", "cli:ada"),
        ("backfill.paused", "cli:bob"),
        ("backfill.unpaused", "cli:bob"),
        ("backfill.finished", "system"),
    ]


# -- beside triggers and depends_on_past ---------------------------------------------------------------------------------
def test_a_run_of_its_date_waits_for_the_date_before(kit):
    kit.apply({"a": {}}, triggers=[DAILY], depends_on_past=True)
    kit.stub.script("a", fail(), succeed())
    backfill = made(kit, max_active_runs=3)
    kit.settle()
    assert dates(kit, backfill) == [(2, "failed"), (3, "queued"), (4, "queued"), (5, "queued")]
    failed = kit.row("SELECT id FROM run WHERE state = 'failed'").id
    kit.clear(str(failed))
    kit.settle()
    assert [state for _, state in dates(kit, backfill)] == ["success"] * 5


def test_many_that_wait_for_the_date_before_do_not_hold_up_others(kit, monkeypatch):
    monkeypatch.setattr("agentflow.db.queries.starts.BATCH", 2)
    for number in range(3):
        kit.apply({"slow": {}}, f"held{number}", triggers=[DAILY], depends_on_past=True)
        made(kit, f"held{number}", max_active_runs=2)
    kit.stub.hold("slow")
    kit.settle()
    assert len(kit.rows("SELECT FROM run WHERE state = 'queued'")) == 3
    kit.apply({"a": {}}, triggers=[DAILY])
    later = made(kit)
    kit.settle()
    assert show(kit, later)["state"] == "success"


def test_one_whose_trigger_cannot_be_read_stops_no_other(kit, caplog):
    found = []
    for name in ("sick", "flow"):
        kit.apply({"a": {}}, name, triggers=[DAILY])
        found.append(made(kit, name))
    kit.sql("UPDATE backfill SET trigger_config = '{}' WHERE id = CAST(:id AS uuid)", id=found[0])
    kit.settle()
    assert [show(kit, one)["state"] for one in found] == ["running", "success"]
    assert "backfill_unusable" in caplog.messages


def test_backwards_and_depends_on_past_exclude_each_other(kit):
    kit.apply({"a": {}}, triggers=[DAILY], depends_on_past=True)
    with pytest.raises(Conflict, match="depends_on_past"):
        made(kit, reverse=True)


def test_its_runs_start_no_other_workflow_and_pause_none_by_failing(kit):
    kit.apply({"a": {}}, triggers=[DAILY], max_consecutive_failures=2)
    kit.apply({"b": {}}, "then", triggers=[{"type": "event", "workflow": "flow", "states": ["failed"]}])
    kit.stub.script("a", fail())
    made(kit)
    kit.settle()
    assert kit.rows("SELECT 1 FROM run WHERE triggered_by = 'event'") == []
    assert kit.row("SELECT paused FROM workflow WHERE name = 'flow'").paused is False


def test_the_sub_runs_of_its_runs_belong_to_it_and_do_not_count(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"s": {"type": "workflow", "config": {"name": "child"}}}, triggers=[DAILY])
    backfill = made(kit, max_active_runs=1)
    kit.settle()
    shown = show(kit, backfill)
    assert (shown["state"], shown["counts"]["success"]) == ("success", 5)
    groups = kit.rows("SELECT DISTINCT g.backfill FROM node_run n JOIN dispatch_group g ON g.id = n.group_id")
    assert [row.backfill for row in groups] == [True]


def test_a_cleared_run_goes_over_to_the_newest_version_within_its_backfill(flow):
    flow.stub.script("a", fail(), succeed())
    backfill = made(flow, to="2026-03-02")
    flow.settle()
    flow.apply({"a": {"priority": 3}}, triggers=[DAILY])
    run = str(flow.row("SELECT id FROM run").id)
    flow.clear(run, newest_version=True)
    flow.settle()
    assert (flow.state(run), flow.show(run)["version"]) == ("success", 2)
    row = flow.row("SELECT n.priority, g.backfill FROM node_run n JOIN dispatch_group g ON g.id = n.group_id")
    assert (row.priority, row.backfill) == (3, True)
    assert show(flow, backfill)["counts"]["success"] == 1


def test_while_both_wait_it_gets_half_of_the_slots(shared_engine, tmp_path):
    kit = Kit(shared_engine, tmp_path, parallelism=8)
    try:
        kit.apply({f"n{i}": {} for i in range(20)}, "live")
        kit.apply({f"m{i}": {"priority": 9} for i in range(20)}, triggers=[DAILY])
        names = [f"n{i}" for i in range(20)] + [f"m{i}" for i in range(20)]
        kit.stub.hold(*names)
        kit.create("live")
        backfill = made(kit, to="2026-03-02")
        for _ in range(3):
            kit.starter.work()
        kit.settle()
        kinds = [workload.node[0] for workload in kit.stub.submitted]
        assert (kinds.count("n"), kinds.count("m")) == (4, 4)
        for name in names:
            kit.stub.release(name)
        kit.settle()
        assert show(kit, backfill)["state"] == "success"
    finally:
        kit.close()
        kit.forget()


def test_a_date_that_the_trigger_fires_at_this_moment_is_run_once(flow):
    """Its fire is not committed yet when the backfill comes to it: the backfill waits, and finds the run."""
    from scheduler.backfills import advance_backfills

    backfill = made(flow, to="2026-03-02", max_active_runs=1)
    date = datetime(2026, 3, 2, 5, tzinfo=UTC)
    with flow.engine.connect() as firing, ThreadPoolExecutor(1) as other:
        firing.execute(
            text("INSERT INTO fire (trigger_id, logical_date, outcome) SELECT id, :date, 'run' FROM trigger"),
            {"date": date},
        )
        waiting = other.submit(flow.call, advance_backfills)
        wait_until(lambda: flow.row("SELECT count(*) AS n FROM pg_locks WHERE NOT granted").n > 0)
        workflow = firing.execute(text("SELECT id, published_version_id AS v FROM workflow WHERE name = 'flow'")).one()
        runs.insert_run(
            firing, now=date, workspace=1, workflow=workflow.id, version=workflow.v, params={},
            triggered_by=TriggeredBy.CRON, actor="system", logical_date=date,
        )  # fmt: skip
        firing.commit()
        waiting.result(timeout=10)
    flow.settle()
    assert dates(flow, backfill) == []
    assert (show(flow, backfill)["state"], show(flow, backfill)["counts"]["skipped"]) == ("success", 1)


# -- what is refused -----------------------------------------------------------------------------------------------------
def test_a_second_one_of_a_workflow_is_refused_while_one_is_under_way(flow):
    first = made(flow)
    with pytest.raises(Conflict, match=first):
        made(flow)
    flow.call(backfills.set_backfill_paused, first, True, actor="test")
    with pytest.raises(Conflict, match=first):
        made(flow)
    flow.call(backfills.cancel_backfill, first, actor="test")
    made(flow)
    flow.settle()


HOURLY = {"name": "hourly", "type": "cron", "cron": "0 * * * *"}
REFUSED = [
    ([], {}, Conflict, "clock"),
    ([{"type": "event", "workflow": "x"}], {}, Conflict, "clock"),
    ([DAILY, HOURLY], {}, UsageError, "several"),
    ([DAILY, HOURLY], {"trigger": "weekly"}, NotFound, "weekly"),
    ([DAILY], {"from_": "soon"}, UsageError, "from"),
    ([DAILY], {"to": "2026-03-32"}, UsageError, "to"),
    ([DAILY], {"to": "2026-03-01"}, UsageError, "before"),
    ([DAILY], {"from_": "2999-01-01", "to": "2999-01-02"}, UsageError, "future"),
    ([DAILY], {"from_": "2026-03-02T07:00", "to": "2026-03-02T08:00"}, Conflict, "does not fire"),
    ([DAILY], {"max_active_runs": 0}, UsageError, "max_active_runs"),
    ([DAILY], {"max_active_runs": 1001}, UsageError, "max_active_runs"),
    ([DAILY], {"reprocess": "some"}, UsageError, "reprocess"),
    ([DAILY], {"params": {"x": 1}}, ParamError, "x"),
    ([{"type": "interval", "every": "1m"}], {"from_": "2025-01-01", "to": "2025-12-31"}, UsageError, "525,600"),
]


@pytest.mark.parametrize(("triggers", "keys", "error", "told"), REFUSED)
def test_what_cannot_be_backfilled_is_refused_with_a_hint(kit, triggers, keys, error, told):
    kit.apply({"a": {}}, triggers=triggers)
    with pytest.raises(error, match=told) as raised:
        made(kit, **keys)
    assert raised.value.hint or error is ParamError
    assert kit.rows("SELECT 1 FROM backfill WHERE state = 'running'") == []


def test_with_several_clocks_the_trigger_is_named(kit):
    kit.apply({"a": {}}, triggers=[DAILY, HOURLY])
    assert preview_of(kit, trigger="hourly")["count"] == 120
    assert preview_of(kit, trigger="cron 0 6 * * * Europe/Berlin")["count"] == 5


def test_more_fires_than_many_are_previewed_and_made_when_confirmed(kit):
    kit.apply({"a": {}}, triggers=[{"type": "interval", "every": "1m"}])
    kit.stub.hold("a")
    year = {"from_": "2025-01-01", "to": "2025-12-31"}
    preview = preview_of(kit, **year)
    assert (preview["count"], len(preview["items"]), preview["more"]) == (525_600, 1000, 524_600)
    backfill = made(kit, **year, confirmed=True, max_active_runs=3)
    kit.settle()
    assert len(dates(kit, backfill)) == 3
    kit.call(backfills.cancel_backfill, backfill, running=True, actor="test")
    kit.settle()


def test_what_lies_in_the_future_is_left_out(flow):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    preview = preview_of(flow, from_=datetime.now(UTC) - timedelta(days=3), to=tomorrow)
    assert preview["count"] == 3


def test_unknown_ones_are_not_found(flow):
    for unknown in ("nonsense", "019aa8b1-0000-7000-8000-000000000001"):
        for ask in (
            backfills.show_backfill,
            lambda c, i: backfills.cancel_backfill(c, i, actor="test"),
            lambda c, i: backfills.set_backfill_paused(c, i, True, actor="test"),
        ):
            with pytest.raises(NotFound) as error:
                flow.call(ask, unknown)
            assert error.value.hint


def test_pages_of_backfills_the_newest_first(flow):
    ids = []
    for _ in range(5):
        ids.append(made(flow))
        flow.call(backfills.cancel_backfill, ids[-1], actor="test")
    found, cursor = [], None
    while True:
        items, cursor = flow.call(backfills.list_backfills, workflow="flow", limit=2, cursor=cursor)
        found += [item["id"] for item in items]
        if cursor is None:
            break
    assert found == ids[::-1]
    assert flow.call(backfills.list_backfills, workflow="flow", state="running") == ([], None)
    with pytest.raises(NotFound):
        flow.call(backfills.list_backfills, workflow="none")


def test_a_workflow_is_not_deleted_under_a_backfill(flow):
    from agentflow.catalog import delete_workflow

    backfill = made(flow)
    with pytest.raises(Conflict, match="backfill"):
        flow.call(delete_workflow, "flow", "test")
    flow.call(backfills.cancel_backfill, backfill, actor="test")
    flow.call(delete_workflow, "flow", "test")
    assert flow.rows("SELECT 1 FROM backfill WHERE id = CAST(:id AS uuid)", id=backfill) == []

"""Event triggers, chains of them, and limits on failures in a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentflow.catalog import set_paused, show_workflow
from agentflow.states import TriggeredBy
from executors.stub import fail
from scheduler.event_triggers import MAX_DEPTH, Arrival, complete
from tests.engine_kit import Kit

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(workflow=None, **keys):
    return {"type": "event"} | ({"workflow": workflow} if workflow else {}) | keys


def started(kit, name):
    """Runs of a workflow that events made, as (note's workflow, chain depth)."""
    rows = kit.rows(
        "SELECT r.note, r.chain_depth, r.logical_date FROM run r JOIN workflow w ON w.id = r.workflow_id"
        " WHERE w.name = :name AND r.triggered_by = 'event' ORDER BY r.id",
        name=name,
    )
    assert all(row.logical_date is None for row in rows)
    return [(row.note.split()[1], row.chain_depth) for row in rows]


def outcomes(kit):
    return [row.outcome for row in kit.rows("SELECT outcome FROM fire ORDER BY fired_at")]


#: States the trigger waits for, how the run ends, whether that starts something.
STATES = [
    (None, "success", True),
    (None, "failed", False),
    (["failed"], "failed", True),
    (["success", "failed"], "success", True),
    (["cancelled"], "cancelled", True),
    (["success"], "cancelled", False),
]


@pytest.mark.parametrize(("states", "ending", "starts"), STATES)
def test_the_end_of_a_run_starts_another_workflow(kit, states, ending, starts):
    kit.apply({"a": {}}, "first")
    kit.apply({"b": {}}, "then", triggers=[event("first", **({"states": states} if states else {}))])
    kit.stub.script("a", fail()) if ending == "failed" else None
    if ending == "cancelled":
        kit.stub.hold("a")
    run = kit.create("first")
    kit.settle()
    if ending == "cancelled":
        kit.cancel(run)
        kit.settle()
    assert kit.state(run) == ending
    assert started(kit, "then") == ([("first", 1)] if starts else [])
    kit.check_books()


@pytest.fixture
def rival(shared_engine, tmp_path):
    """A second scheduler on the same database."""
    kit = Kit(shared_engine, tmp_path / "rival")
    yield kit
    kit.close()


def test_two_schedulers_start_it_once(kit, rival):
    kit.apply({"a": {}}, "first")
    kit.apply({"b": {}}, "then", triggers=[event("first")])
    kit.create("first")
    for _ in range(4):
        for one in (rival, kit):
            one.starter.work()
            one.tick()
            one.tick()
        for one in (rival, kit):
            one.ends.work()
    assert len(started(kit, "then")) == 1


def test_its_params_are_the_trigger_s(kit):
    kit.apply({"a": {}}, "first")
    trigger = event("first", params={"n": 5})
    kit.apply({"b": {}}, "then", params={"n": {"type": "integer"}}, triggers=[trigger])
    kit.run("first")
    assert kit.row("SELECT params FROM run WHERE triggered_by = 'event'").params == {"n": 5}


@pytest.mark.parametrize("what", ["trigger", "workflow"])
def test_a_paused_one_misses_the_event_for_good(kit, what):
    kit.apply({"a": {}}, "first")
    kit.apply({"b": {}}, "then", triggers=[event("first", paused=what == "trigger")])
    if what == "workflow":
        kit.call(set_paused, "then", True, "test")
    kit.run("first")
    if what == "workflow":
        kit.call(set_paused, "then", False, "test")
        kit.settle()
    assert started(kit, "then") == []


def test_any_of_several_starts_it_each_time(kit):
    for name in ("one", "two"):
        kit.apply({"a": {}}, name)
    kit.apply({"b": {}}, "then", triggers=[event(workflows=["one", "two"])])
    kit.run("one")
    kit.run("two")
    assert [name for name, _ in started(kit, "then")] == ["one", "two"]


def test_all_of_several_start_it_once_and_are_used_up(kit):
    for name in ("one", "two"):
        kit.apply({"a": {}}, name)
    kit.apply({"b": {}}, "then", triggers=[event(workflows=["one", "two"], mode="all", within="1h")])
    kit.run("one")
    kit.run("one")
    assert started(kit, "then") == []
    kit.run("two")
    assert started(kit, "then") == [("two", 1)]
    kit.run("two")
    assert len(started(kit, "then")) == 1
    kit.run("one")
    assert len(started(kit, "then")) == 2


def test_an_end_that_is_too_long_ago_does_not_count_for_all(kit):
    for name in ("one", "two"):
        kit.apply({"a": {}}, name)
    kit.apply({"b": {}}, "then", triggers=[event(workflows=["one", "two"], mode="all", within="1h")])
    kit.run("one")
    kit.sql("UPDATE event_arrival SET ended_at = ended_at - interval '2 hours'")
    kit.run("two")
    assert started(kit, "then") == []
    kit.run("one")
    assert len(started(kit, "then")) == 1


ARRIVALS = [
    ([], {"a"}, None, False),
    ([("a", 0)], {"a"}, None, True),
    ([("a", 0)], {"a", "b"}, None, False),
    ([("a", 0), ("b", 500)], {"a", "b"}, None, True),
    ([("a", 0), ("b", 60)], {"a", "b"}, 60, True),
    ([("a", 0), ("b", 61)], {"a", "b"}, 60, False),
    ([("a", 0), ("b", 30), ("c", 61)], {"a", "b", "c"}, 60, False),
    ([("a", 0), ("gone", 900)], {"a"}, 60, True),  # of a workflow that is not waited for any more
]


@pytest.mark.parametrize(("given", "wanted", "within", "result"), ARRIVALS)
def test_when_all_have_arrived(given, wanted, within, result):
    arrivals = [Arrival(name, NOON + timedelta(minutes=minutes), 0) for name, minutes in given]
    assert complete(arrivals, wanted, None if within is None else timedelta(minutes=within)) is result


def test_a_chain_that_closes_on_itself_is_stopped_and_recorded(kit):
    kit.apply({"a": {}}, "ping", triggers=[event("pong")])
    kit.apply({"a": {}}, "pong", triggers=[event("ping")])
    kit.run("ping")
    depths = [row.chain_depth for row in kit.rows("SELECT chain_depth FROM run ORDER BY id")]
    assert depths == list(range(MAX_DEPTH + 1))
    assert outcomes(kit)[-1] == "refused"
    kit.check_books()


def test_sub_runs_start_nothing_and_their_outer_run_does(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"s": {"type": "workflow", "config": {"name": "child"}}}, "outer")
    kit.apply({"b": {}}, "after-child", triggers=[event("child")])
    kit.apply({"b": {}}, "after-outer", triggers=[event("outer")])
    kit.run("outer")
    assert (len(started(kit, "after-child")), len(started(kit, "after-outer"))) == (0, 1)


def test_a_changed_trigger_listens_to_its_new_workflow_alone(kit):
    for name in ("one", "two"):
        kit.apply({"a": {}}, name)
    kit.apply({"b": {}}, "then", triggers=[event("one", name="t")])
    kit.apply({"b": {}}, "then", triggers=[event("two", name="t")])
    kit.run("one")
    assert started(kit, "then") == []
    kit.run("two")
    assert len(started(kit, "then")) == 1
    kit.apply({"b": {}}, "then")
    kit.run("two")
    assert len(started(kit, "then")) == 1


HOURLY = {"name": "t", "type": "interval", "every": "1h"}


def test_a_named_trigger_that_becomes_a_clock_listens_to_nobody(kit):
    kit.apply({"a": {}}, "first")
    kit.apply({"b": {}}, "then", triggers=[event("first", name="t")])
    kit.apply({"b": {}}, "then", triggers=[HOURLY])
    kit.run("first")
    assert started(kit, "then") == []
    assert kit.rows("SELECT 1 FROM event_source") == []


@pytest.mark.parametrize("other", [{"type": "event", "workflow": "first"}, {"type": "webhook"}])
def test_a_named_trigger_that_loses_its_clock_is_never_due(kit, other):
    kit.apply({"a": {}}, "first")
    kit.apply({"b": {}}, "then", triggers=[HOURLY])
    kit.apply({"b": {}}, "then", triggers=[{"name": "t", **other}])
    assert kit.row("SELECT next_fire_at FROM trigger").next_fire_at is None


# -- failures in a row ---------------------------------------------------------------------------------------------------
def test_so_many_failures_in_a_row_pause_a_workflow_and_say_why(kit):
    kit.apply({"a": {}}, max_consecutive_failures=2)
    kit.stub.script("a", fail())
    kit.run()
    assert kit.call(show_workflow, "flow")["paused"] is False
    last = kit.run()
    shown = kit.call(show_workflow, "flow")
    assert shown["paused"] is True
    assert shown["pause_reason"] == f"2 runs in a row have failed, the last one {last}"
    told = kit.row("SELECT actor, detail FROM audit_event WHERE action = 'workflow.paused'")
    assert (told.actor, told.detail["reason"]) == ("system", shown["pause_reason"])


def test_a_success_between_failures_starts_the_count_anew(kit):
    from executors.stub import succeed

    kit.apply({"a": {}}, max_consecutive_failures=2)
    kit.stub.script("a", fail(), succeed(), fail(), succeed())
    for _ in range(4):
        kit.run()
    assert kit.call(show_workflow, "flow")["paused"] is False


def test_failures_from_before_it_was_unpaused_do_not_count_again(kit):
    kit.apply({"a": {}}, max_consecutive_failures=2)
    kit.stub.script("a", fail())
    kit.run()
    kit.run()
    kit.call(set_paused, "flow", False, "test")
    kit.run()
    shown = kit.call(show_workflow, "flow")
    assert (shown["paused"], shown["pause_reason"]) == (False, None)
    kit.run()
    assert kit.call(show_workflow, "flow")["paused"] is True


# -- depends_on_past -----------------------------------------------------------------------------------------------------
def scheduled(kit, day):
    """A run as a cron trigger makes it."""
    run = kit.create(logical_date=datetime(2026, 1, day, tzinfo=UTC))
    kit.sql("UPDATE run SET triggered_by = :by WHERE id = CAST(:id AS uuid)", by=TriggeredBy.CRON.value, id=run)
    return run


def test_a_run_waits_until_the_one_before_it_has_ended_in_success(kit):
    kit.apply({"a": {}}, depends_on_past=True)
    kit.stub.hold("a")
    first, third, second = scheduled(kit, 1), scheduled(kit, 3), scheduled(kit, 2)
    kit.settle()
    assert [kit.state(run) for run in (first, second, third)] == ["running", "queued", "queued"]
    kit.stub.release("a", fail())
    kit.settle()
    assert [kit.state(run) for run in (first, second, third)] == ["failed", "queued", "queued"]
    kit.mark(first, "a", "success")
    kit.settle()
    assert [kit.state(run) for run in (first, second, third)] == ["success", "success", "success"]


def test_runs_by_hand_neither_wait_nor_count(kit):
    kit.apply({"a": {}}, depends_on_past=True)
    kit.stub.script("a", fail())
    failed = scheduled(kit, 1)
    kit.settle()
    assert kit.state(failed) == "failed"
    by_hand = kit.run()
    assert kit.state(by_hand) == "failed"
    waiting = scheduled(kit, 2)
    kit.settle()
    assert kit.state(waiting) == "queued"


def test_workflows_that_wait_for_their_past_keep_no_other_from_starting(kit):
    for number in range(25):
        kit.apply({"a": {}}, f"blocked-{number}", depends_on_past=True)
        for day in (1, 2):
            run = kit.create(f"blocked-{number}", logical_date=datetime(2026, 1, day, tzinfo=UTC))
            kit.sql("UPDATE run SET triggered_by = 'cron' WHERE id = CAST(:id AS uuid)", id=run)
    kit.stub.script("a", fail())
    kit.settle()
    kit.apply({"b": {}}, "other")
    assert kit.state(kit.run("other")) == "success"

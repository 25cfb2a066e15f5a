"""What people do to runs: cancel, mark, rerun, note; run timeouts; and repairs of counters that went wrong."""

from __future__ import annotations

import uuid

import pytest
from psycopg.errors import DeadlockDetected
from sqlalchemy.exc import OperationalError

from agentflow import runs
from agentflow.errors import Conflict, NotFound, ParamError, UsageError
from executors.stub import fail, succeed
from scheduler import starter
from scheduler.consistency import Consistency

UNKNOWN = "019abcde-0000-7000-8000-000000000000"
CHAIN = {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}}


# -- cancel --------------------------------------------------------------------------------------------------------------
def test_cancel_drops_what_waits_and_stops_what_runs(kit):
    kit.apply(
        {
            "done": {},
            "slow": {},
            "again": {"retries": 1, "retry_delay": "1h"},
            "gated": {"needs": ["slow"], "when": "{{ 1 // 0 }}", "trigger_rule": "always"},
            "after": {"needs": ["slow"], "trigger_rule": "all_done"},
        }
    )
    kit.stub.hold("slow")
    kit.stub.script("again", fail())
    run = kit.create()
    kit.starter.work()  # `gated` is due, but nobody has evaluated it
    for _ in range(3):
        kit.tick()

    assert kit.cancel(run) == {"id": run, "changed": True}

    assert kit.states(run) == {
        "done": "success",
        "slow": "running",
        "again": "cancelled",
        "gated": "cancelled",
        "after": "cancelled",
    }
    assert kit.state(run) == "running"
    kit.settle()
    assert kit.states(run)["slow"] == "cancelled"
    assert kit.state(run) == "cancelled"
    assert kit.attempts(run, "slow") == [(1, "cancelled")]
    assert len(kit.stub.cancelled) == 1
    assert kit.cancel(run) == {"id": run, "changed": False}


def test_the_history_of_a_cancelled_run_names_each_node_run_once_in_order(kit):
    kit.apply({"a": {}, "b": {"for_each": [1, 2, 3], "max_parallel": 1}, "c": {"needs": ["a", "b"]}, "d": {}})
    kit.stub.hold("a", "b")
    run = kit.run()
    before = max(event.seq for event in kit.events(run, "node"))
    kit.cancel(run)
    kit.settle()
    dropped = [event for event in kit.events(run, "node") if event.seq > before and event.attempt is None]
    assert [(event.node_no, event.map_index, event.state) for event in dropped] == [
        (no, index, "cancelled") for no, index in [(1, -1), (1, 1), (1, 2), (2, -1)]
    ]
    assert [event.seq for event in dropped] == list(range(before + 1, before + 5))
    kit.check_books()


def test_a_deadlock_with_a_run_over_its_time_is_tried_again(kit, monkeypatch):
    kit.apply({"a": {}}, timeout="1h")
    kit.stub.hold("a")
    run = kit.run()
    stop_runs, tries = starter.stop_runs, []

    def lose_once(connection, runs, *, timed_out):
        tries.append(run)
        if len(tries) == 1:
            raise OperationalError("", {}, DeadlockDetected())
        return stop_runs(connection, runs, timed_out=timed_out)

    monkeypatch.setattr(starter, "stop_runs", lose_once)
    kit.let_time_pass()
    assert (kit.state(run), len(tries)) == ("failed", 2)


def test_runs_cancelled_together_keep_histories_of_their_own(kit):
    kit.apply({"sub": {"type": "workflow", "config": {"name": "child"}}, "b": {"needs": ["sub"]}}, timeout="1h")
    kit.apply({"x": {}, "y": {"needs": ["x"]}}, "child")
    kit.stub.hold("x")
    found = [kit.run() for _ in range(3)]
    kit.let_time_pass()  # all three are over their time, and are stopped in one transaction
    assert [kit.states(run) for run in found] == [{"sub": "cancelled", "b": "cancelled"}] * 3
    kit.check_books()


def test_a_queued_run_is_cancelled_at_once(kit):
    kit.apply(CHAIN)
    run = kit.create()
    kit.cancel(run)
    assert kit.state(run) == "cancelled"
    assert set(kit.states(run).values()) == {"cancelled"}
    kit.settle()
    assert kit.started() == []


@pytest.mark.parametrize(("ending", "node"), [(succeed(), "success"), (fail(), "failed")])
def test_what_ends_by_itself_during_a_cancel_keeps_its_result_and_starts_nothing(kit, ending, node):
    kit.apply({"a": {"retries": 3, "retry_delay": "0s"}, "b": {"needs": ["a"], "trigger_rule": "all_done"}})
    kit.stub.hold("a")
    run = kit.run()
    kit.cancel(run)
    kit.stub.release("a", ending)
    kit.settle()
    assert kit.states(run) == {"a": node, "b": "cancelled"}
    assert kit.state(run) == "cancelled"
    assert kit.started() == ["a"]


def test_cancel_of_an_unknown_run_says_so(kit):
    with pytest.raises(NotFound):
        kit.cancel(UNKNOWN)


# -- run timeout ---------------------------------------------------------------------------------------------------------
def test_a_run_over_its_time_fails_and_its_open_nodes_are_cancelled(kit):
    kit.apply(
        {"a": {}, "b": {"retries": 1, "retry_delay": "1h"}, "c": {"needs": ["a"], "trigger_rule": "all_done"}},
        timeout="1h",
    )
    kit.stub.hold("a")
    kit.stub.script("b", fail())
    run = kit.run()
    assert kit.state(run) == "running"
    kit.let_time_pass()
    assert kit.states(run) == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}
    assert kit.state(run) == "failed"
    assert kit.show(run)["timed_out"] is True


def test_the_time_of_a_run_begins_at_its_start_and_again_at_a_clear(kit):
    kit.apply({"a": {}}, timeout="1h")
    run = kit.create()
    bounds = "SELECT timeout_at - clock_timestamp() > interval '59 min' AS fresh FROM run"
    assert kit.row(bounds).fresh is None
    kit.settle()
    kit.sql("UPDATE run SET timeout_at = clock_timestamp() - interval '1 h'")
    kit.clear(run)
    assert kit.row(bounds).fresh is True
    kit.settle()
    assert kit.state(run) == "success"


# -- mark ----------------------------------------------------------------------------------------------------------------
def test_mark_lets_what_waits_go_on(kit):
    kit.apply({"a": {"retries": 1, "retry_delay": "1h"}, "b": {"needs": ["a"]}})
    kit.stub.script("a", fail())
    run = kit.run()
    assert kit.mark(run, "a", "success") == {"id": run, "changed": True}
    kit.settle()
    assert kit.states(run) == {"a": "success", "b": "success"}
    assert kit.state(run) == "success"
    assert kit.mark(run, "a", "success") == {"id": run, "changed": False}


@pytest.mark.parametrize(
    ("first", "state", "run_state"), [(fail(), "success", "success"), (succeed(), "failed", "failed")]
)
def test_mark_of_a_leaf_changes_how_an_ended_run_ended(kit, first, state, run_state):
    kit.apply({"a": {}})
    kit.stub.script("a", first)
    run = kit.run()
    kit.mark(run, "a", state)
    assert kit.state(run) == run_state
    assert kit.show(run)["finished_at"] is not None


def test_mark_before_its_turn_keeps_a_node_from_running(kit):
    kit.apply(CHAIN)
    kit.stub.hold("a")
    run = kit.run()
    kit.mark(run, "b", "skipped")
    assert kit.states(run) == {"a": "running", "b": "skipped", "c": "skipped"}
    kit.stub.release("a")
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.started() == ["a"]


def test_the_output_of_a_node_marked_failed_is_null_below(kit):
    kit.apply(
        {"a": {}, "b": {"needs": ["a"], "trigger_rule": "all_done", "config": {"output": "{{ nodes.a.output }}"}}}
    )
    kit.stub.script("a", succeed("secret"))
    run = kit.run()
    kit.mark(run, "a", "failed")
    kit.clear(run, "b")
    kit.settle()
    assert kit.stub.submitted[-1].context["nodes"]["a"] == {"output": None, "state": "failed"}


def test_mark_refuses_what_it_cannot_do(kit):
    kit.apply(CHAIN)
    kit.stub.hold("a")
    run = kit.run()
    with pytest.raises(Conflict, match="running"):
        kit.mark(run, "a", "success")
    with pytest.raises(UsageError):
        kit.mark(run, "b", "running")
    with pytest.raises(NotFound):
        kit.mark(run, "nowhere", "success")
    kit.cancel(run)
    with pytest.raises(Conflict, match="being stopped"):
        kit.mark(run, "b", "success")


# -- rerun, note, create -------------------------------------------------------------------------------------------------
def test_rerun_makes_a_new_run_of_the_same_version_and_params(kit):
    kit.apply(CHAIN, params={"n": {"type": "integer"}})
    first = kit.run(params={"n": 5})
    kit.apply({"other": {}}, params={"n": {"type": "string"}})
    second = kit.call(runs.rerun, first, actor="test")["id"]
    kit.settle()
    assert second != first
    one, two = kit.show(first), kit.show(second)
    assert (two["version"], two["params"]) == (one["version"], one["params"]) == (1, {"n": 5})
    assert [node["node"] for node in two["nodes"]] == ["a", "b", "c"]
    assert two["state"] == "success"


def test_a_note_is_kept_and_bounded(kit):
    kit.apply(CHAIN)
    run = kit.run()
    kit.call(runs.set_note, run, "looked at it", actor="test")
    assert kit.show(run)["note"] == "looked at it"
    with pytest.raises(UsageError):
        kit.call(runs.set_note, run, "x" * 10_001, actor="test")
    with pytest.raises(NotFound):
        kit.call(runs.set_note, UNKNOWN, "x", actor="test")


def test_a_run_with_wrong_params_is_not_made(kit):
    kit.apply(CHAIN, params={"n": {"type": "integer"}})
    with pytest.raises(ParamError):
        kit.create(params={"n": "five"})
    assert kit.rows("SELECT 1 FROM run") == []


# -- repair --------------------------------------------------------------------------------------------------------------
def test_a_counter_that_went_wrong_is_repaired_loudly(kit, caplog):
    # Given a run of which b waits for ever, since it was never told that a is done
    kit.apply(CHAIN)
    kit.stub.hold("a")
    run = kit.run()
    kit.sql("UPDATE run SET open_nodes = 17")
    kit.stub.release("a")
    kit.tick_events_only(claim=False)
    kit.sql("UPDATE node_run SET up_success = 0, state = 'pending', ready_at = NULL WHERE n_up = 1")
    kit.settle()
    assert kit.states(run) == {"a": "success", "b": "pending", "c": "pending"}
    # When the check comes by: at first it is too early
    assert Consistency(kit.engine).check() == 0
    check = Consistency(kit.engine, quiet=-1.0)
    assert check.check() == 1
    # Then the run goes on to its end, and the repair is an error in the log and in its history
    kit.settle()
    assert kit.state(run) == "success"
    assert check.repairs == 1
    assert [record.levelname for record in caplog.records if record.message == "run_repaired"] == ["ERROR"]
    (event,) = kit.events(run, "repaired")
    assert event.detail["before"] == [16, 0]
    kit.sql("DELETE FROM run_event WHERE run_id = :run", run=uuid.UUID(run))
    kit.sql("UPDATE run SET event_seq = 0")


def test_a_run_that_has_nothing_open_but_never_ended_is_ended(kit):
    kit.apply({"a": {}})
    run = kit.run()
    kit.sql("UPDATE run SET state = 'running', finished_at = NULL, open_nodes = 1")
    assert Consistency(kit.engine, quiet=-1.0).check() == 1
    assert kit.state(run) == "success"
    kit.sql("DELETE FROM run_event")
    kit.sql("UPDATE run SET event_seq = 0")


def test_a_run_that_waits_is_not_repaired(kit):
    kit.apply({"a": {"retries": 1, "retry_delay": "1h"}, "b": {}})
    kit.stub.script("a", fail())
    kit.stub.hold("b")
    kit.run()
    assert Consistency(kit.engine, quiet=-1.0).check() == 0

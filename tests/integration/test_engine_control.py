"""What people do to runs: cancel, clear, mark, rerun, note; run timeouts; and repairs of counters that went wrong."""

from __future__ import annotations

import uuid

import pytest

from agentflow import runs
from agentflow.db.queries import due
from agentflow.errors import Conflict, NotFound, ParamError, UsageError
from executors.stub import fail, skip, succeed
from scheduler.consistency import Consistency
from tests.engine_kit import branch

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


# -- clear ---------------------------------------------------------------------------------------------------------------
def test_clear_runs_a_node_again_and_leaves_its_downstreams(kit):
    kit.apply(CHAIN)
    kit.stub.script("a", succeed(1), succeed(2))
    run = kit.run()
    assert kit.clear(run, "a") == {"id": run, "changed": True, "cleared": ["a"]}
    assert kit.state(run) == "running"
    assert kit.states(run) == {"a": "ready", "b": "success", "c": "success"}
    assert kit.nodes(run)["a"]["output"] is None
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.started() == ["a", "b", "c", "a"]
    assert kit.nodes(run)["a"]["output"] == 2
    assert kit.attempts(run, "a") == [(1, "success"), (2, "success")]  # numbers are never used again


def test_clear_with_downstream_runs_all_below_again(kit):
    kit.apply(CHAIN | {"x": {}, "y": {"needs": ["b", "x"]}})
    run = kit.run()
    assert kit.clear(run, "b", downstream=True)["cleared"] == ["b", "c", "y"]
    kit.settle()
    assert sorted(kit.started()) == ["a", "b", "b", "c", "c", "x", "y", "y"]


def test_clear_of_everything_starts_from_the_roots(kit):
    kit.apply(CHAIN)
    run = kit.run()
    assert kit.clear(run)["cleared"] == ["a", "b", "c"]
    kit.settle()
    assert kit.started() == ["a", "b", "c"] * 2
    assert {node["attempt"] for node in kit.nodes(run).values()} == {2}


def test_clear_of_the_failed_runs_what_failed_and_what_that_kept_from_running(kit):
    kit.apply({"good": {}, "bad": {}, "after": {"needs": ["good", "bad"]}, "skipped": {"when": False}})
    kit.stub.script("bad", fail(), succeed())
    run = kit.run()
    assert kit.state(run) == "failed"
    assert kit.clear(run, only_failed=True)["cleared"] == ["bad", "after"]
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.started() == ["good", "bad", "bad", "after"]
    assert kit.clear(run, only_failed=True) == {"id": run, "changed": False, "cleared": []}
    assert kit.state(run) == "success"


def test_clear_gives_all_retries_back(kit):
    kit.apply({"a": {"retries": 1, "retry_delay": "0s"}})
    kit.stub.script("a", fail())
    run = kit.run()
    kit.clear(run)
    kit.settle()
    assert [number for number, _ in kit.attempts(run, "a")] == [1, 2, 3, 4]
    assert kit.state(run) == "failed"


def test_clear_opens_a_cancelled_run_again(kit):
    kit.apply(CHAIN)
    kit.stub.hold("b")
    run = kit.run()
    kit.cancel(run)
    kit.settle()
    kit.stub.release("b")
    kit.clear(run, only_failed=True)
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.started() == ["a", "b", "b", "c"]


def test_clear_of_an_old_run_is_seen_though_younger_ones_are_open(kit):
    kit.apply(CHAIN)
    old = kit.run()
    kit.stub.hold("a")
    kit.run()
    kit.stub._held.clear()
    kit.clear(old, "c")
    kit.settle()
    assert kit.state(old) == "success"
    assert kit.started() == ["a", "b", "c", "a", "c"]


def test_clear_follows_rules_branches_and_whens_again(kit):
    kit.apply(
        {
            "choose": branch("x", "y"),
            "x": {"needs": ["choose"]},
            "y": {"needs": ["choose"], "when": "{{ nodes.choose.output | length == 1 }}"},
            "z": {"needs": ["x", "y"], "trigger_rule": "one_success"},
        }
    )
    kit.stub.script("choose", succeed(["x"]), succeed(["y"]))
    run = kit.run()
    assert kit.states(run) == {"choose": "success", "x": "success", "y": "skipped", "z": "success"}
    kit.clear(run, "choose", downstream=True)
    kit.settle()
    assert kit.states(run) == {"choose": "success", "x": "skipped", "y": "success", "z": "success"}
    # What the branch left out stays out when it is cleared alone; the branch's word still stands.
    kit.clear(run, "x")
    kit.settle()
    assert kit.states(run)["x"] == "skipped"


def test_clear_while_an_attempt_runs_is_refused_and_changes_nothing(kit):
    kit.apply(CHAIN)
    kit.stub.hold("b")
    run = kit.run()
    with pytest.raises(Conflict, match="b"):
        kit.clear(run)
    with pytest.raises(Conflict):
        kit.clear(run, "a", downstream=True)
    kit.clear(run, "a")  # a alone does not run
    kit.settle()
    assert kit.states(run) == {"a": "success", "b": "running", "c": "pending"}
    kit.stub.release("b")
    kit.settle()
    assert kit.state(run) == "success"


def test_clear_refuses_what_it_cannot_do(kit):
    kit.apply(CHAIN)
    queued = kit.create()
    with pytest.raises(Conflict, match="not started"):
        kit.clear(queued)
    with pytest.raises(NotFound):
        kit.clear(UNKNOWN)
    kit.stub.hold("a")
    kit.settle()
    with pytest.raises(NotFound, match="nowhere"):
        kit.clear(queued, "nowhere")
    kit.cancel(queued)
    with pytest.raises(Conflict, match="being stopped"):
        kit.clear(queued, "c")


def test_clear_in_the_middle_of_a_retry_starts_at_once(kit):
    kit.apply({"a": {"retries": 1, "retry_delay": "1h"}})
    kit.stub.script("a", fail(), succeed())
    run = kit.run()
    assert kit.states(run)["a"] == "retrying"
    kit.clear(run, "a")
    kit.settle()
    assert kit.state(run) == "success"


def test_an_answer_about_a_when_that_comes_after_a_clear_is_not_taken(kit):
    # Given a node whose `when` was read as false
    kit.apply({"a": {}, "b": {"needs": ["a"], "when": "{{ nodes.a.output }}"}})
    kit.stub.script("a", succeed(False), succeed(True))
    run = kit.create()
    kit.starter.work()
    for _ in range(2):
        kit.tick()
    leased = kit.call(due.lease_gates, me=kit.identity.id, reserved_only=False, oldest=uuid.UUID(int=0))
    answers = kit.gates._evaluate(leased)
    # When all is cleared and has come as far again before the answer arrives
    kit.clear(run)
    for _ in range(3):
        kit.tick()
    kit.call(due.apply_gates, results=answers)
    # Then the node still waits for an answer of its own
    assert kit.states(run) == {"a": "success", "b": "pending"}
    kit.settle()
    assert kit.states(run)["b"] == "success"


def test_a_clear_amid_a_cut_off_cascade_counts_nothing_twice(kit):
    # Given a cascade of 250 skips of which only the first 100 are done
    kit.apply({"n0": {}, **{f"n{i}": {"needs": [f"n{i - 1}"]} for i in range(1, 250)}})
    kit.stub.script("n0", skip(), succeed())
    run = kit.create()
    kit.starter.work()
    kit.tick()
    kit.tick_events_only()
    assert 100 <= list(kit.states(run).values()).count("skipped") < 250
    # When its last nodes are marked and its first is cleared
    kit.mark(run, "n249", "success")
    kit.clear(run, "n0")
    # Then it comes to its end with the right counters (which the fixture checks)
    kit.settle()
    assert kit.state(run) == "success"


def test_a_long_cascade_goes_on_without_waiting_for_the_poll(kit):
    kit.apply({"n0": {}, **{f"n{i}": {"needs": [f"n{i - 1}"]} for i in range(1, 350)}})
    kit.stub.script("n0", skip())
    run = kit.create()
    kit.starter.work()
    kit.tick()
    for _ in range(4):
        kit.loop.tick()
        assert kit.state(run) == "success" or kit.loop._pause() == 0.0
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

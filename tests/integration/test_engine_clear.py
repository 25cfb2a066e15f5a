"""Clear: what runs again, what is refused, and what must not be counted twice (SEMANTICS section 10)."""

from __future__ import annotations

import pytest

from agentflow.db.queries.gates import lease_gates
from agentflow.errors import Conflict, NotFound
from executors.stub import fail, skip, succeed
from scheduler.gates import store

UNKNOWN = "019abcde-0000-7000-8000-000000000000"
CHAIN = {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}}


def test_clear_runs_a_node_again_and_leaves_its_downstreams(kit):
    kit.apply(CHAIN)
    kit.stub.script("a", succeed(1), succeed(2))
    run = kit.run()
    before = {"run": run, "node": "a", "map_index": None, "state": "success"}
    assert kit.clear(run, "a") == {"id": run, "changed": True, "cleared": ["a"], "nodes": [before]}
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
    assert kit.clear(run, only_failed=True) == {"id": run, "changed": False, "cleared": [], "nodes": []}
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
    cases = [{"when": "{{ nodes.pick.output == 'x' }}", "to": ["x"]}]
    kit.apply(
        {
            "pick": {},
            "choose": {"type": "branch", "needs": ["pick"], "config": {"cases": cases, "default": ["y"]}},
            "x": {"needs": ["choose"]},
            "y": {"needs": ["choose"], "when": "{{ nodes.choose.output | length == 1 }}"},
            "z": {"needs": ["x", "y"], "trigger_rule": "one_success"},
        }
    )
    kit.stub.script("pick", succeed("x"), succeed("y"))
    run = kit.run()
    assert kit.states(run) == {"pick": "success", "choose": "success", "x": "success", "y": "skipped", "z": "success"}
    kit.clear(run, "pick", downstream=True)
    kit.settle()
    assert kit.states(run) == {"pick": "success", "choose": "success", "x": "skipped", "y": "success", "z": "success"}
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
    leased = kit.call(lease_gates, me=kit.identity.id, reserved_only=False)
    answers = kit.gates._judge.decide(leased)
    # When all is cleared and has come as far again before the answer arrives
    kit.clear(run)
    for _ in range(3):
        kit.tick()
    kit.call(store, results=answers, ended=[], waits=[])
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

"""What may start when: max_active_runs, pause, priority, concurrency, pools with slots, executors and queues."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentflow import runs
from agentflow.catalog import set_paused
from agentflow.errors import Conflict
from agentflow.settings_store import set_pool
from agentflow.states import TriggeredBy
from executors.stub import StubExecutor, lose
from tests.engine_kit import Kit

MANY = {f"n{i}": {} for i in range(6)}


def test_runs_above_max_active_runs_wait_for_the_oldest_logical_date(kit):
    kit.apply({"a": {}}, max_active_runs=2)
    kit.stub.hold("a")
    dates = {day: kit.create(logical_date=datetime(2026, 1, day, tzinfo=UTC)) for day in (5, 3, 9, 1, 7)}
    kit.settle()
    assert _running(kit, dates) == {1, 3}
    kit.stub.release("a")
    kit.stub.hold("a")
    kit.settle()
    assert _running(kit, dates) == {5, 7}
    kit.stub.release("a")
    kit.settle()
    assert {kit.state(run) for run in dates.values()} == {"success"}


def test_runs_without_a_logical_date_start_in_the_order_of_their_creation(kit):
    kit.apply({"a": {}}, max_active_runs=1)
    kit.stub.hold("a")
    ids = [kit.create() for _ in range(4)]
    kit.settle()
    assert [kit.state(run) for run in ids] == ["running", "queued", "queued", "queued"]
    kit.stub.release("a")
    kit.settle()
    assert [workload.run_id for workload in kit.stub.submitted] == ids


def test_one_workflow_at_its_limit_does_not_hold_up_another(kit):
    kit.apply({"a": {}}, name="full", max_active_runs=1)
    kit.apply({"b": {}}, name="free")
    kit.stub.hold("a")
    full = [kit.run("full") for _ in range(2)]
    free = kit.run("free")
    assert [kit.state(run) for run in full] == ["running", "queued"]
    assert kit.state(free) == "success"


def test_a_logical_date_by_hand_is_unique_per_workflow(kit):
    kit.apply({"a": {}})
    date = datetime(2026, 1, 1, tzinfo=UTC)
    kit.create(logical_date=date)
    with pytest.raises(Conflict):
        kit.create(logical_date=date)
    kit.apply({"a": {}}, name="other")
    kit.create("other", logical_date=date)
    assert len(kit.rows("SELECT 1 FROM run")) == 2  # the refused one left nothing behind


def test_a_paused_workflow_starts_and_claims_nothing_and_lets_run_what_runs(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.stub.hold("a")
    running = kit.run()
    kit.call(set_paused, "flow", True, actor="test")
    waiting = kit.create()
    kit.stub.release("a")
    kit.settle()
    assert kit.states(running) == {"a": "success", "b": "ready"}
    assert kit.state(waiting) == "queued"
    kit.call(set_paused, "flow", False, actor="test")
    kit.settle()
    assert {kit.state(running), kit.state(waiting)} == {"success"}


def test_a_run_by_hand_of_a_paused_workflow_says_so(kit):
    kit.apply({"a": {}})
    kit.call(set_paused, "flow", True, actor="test")
    made = kit.call(runs.create_run, "flow", {}, triggered_by=TriggeredBy.CLI, actor="test")
    assert made["paused"] is True
    assert made["state"] == "queued"


def test_higher_priority_starts_first_then_the_older(kit, monkeypatch):
    kit.apply({"low": {"priority": -1}, "mid": {}, "mid2": {}, "high": {"priority": 10}})
    _slots(kit, 1)
    for _ in range(2):
        kit.create()
    kit.settle()
    assert kit.started() == ["high"] * 2 + ["mid", "mid2"] * 2 + ["low"] * 2


def test_concurrency_bounds_the_node_runs_of_a_workflow_over_all_its_runs(kit):
    kit.apply(MANY, concurrency=4)
    kit.apply({"x": {}}, name="other")
    kit.stub.hold(*MANY)
    kit.run()
    kit.run()
    assert len(kit.stub.running) == 4
    assert kit.state(kit.run("other")) == "success"
    _drain(kit, MANY, most=4)


def test_a_pool_bounds_over_workflows_and_its_slots_come_back(kit):
    kit.call(set_pool, "gpu", 3, actor="test")
    kit.apply({name: {"pool": "gpu"} for name in MANY}, name="one")
    kit.apply({name: {"pool": "gpu"} for name in MANY}, name="two")
    kit.stub.hold(*MANY)
    kit.run("one")
    kit.run("two")
    assert len(kit.stub.running) == 3
    kit.call(set_pool, "gpu", 5, actor="test")
    kit.settle()
    assert len(kit.stub.running) == 5
    _drain(kit, MANY, most=5)
    assert len(kit.stub.submitted) == 12


def test_a_pool_of_no_slots_lets_nothing_start(kit):
    kit.call(set_pool, "shut", 1, actor="test")
    kit.apply({"a": {"pool": "shut"}, "b": {}})
    kit.call(set_pool, "shut", 0, actor="test")
    assert kit.states(kit.run()) == {"a": "ready", "b": "success"}


def test_pool_slots_count_and_small_nodes_do_not_overtake_a_large_one_for_ever(kit):
    # Given 4 slots, 2 of them held, and a node of 3 slots that waits with higher priority
    kit.call(set_pool, "wide", 4, actor="test")
    pool = {"pool": "wide"}
    kit.apply({"early": pool | {"pool_slots": 2}}, name="first")
    kit.stub.hold("early", "large", *MANY)
    kit.run("first")
    kit.apply({"large": pool | {"pool_slots": 3, "priority": 1}, **dict.fromkeys(MANY, pool)}, name="second")
    kit.run("second")
    # Then the small ones wait behind it
    assert kit.started() == ["early"]
    kit.stub.release("early")
    kit.settle()
    assert kit.started() == ["early", "large", "n0"]


def test_a_node_that_needs_more_than_its_pool_has_is_refused_and_waits_alone_when_the_pool_shrinks(kit):
    kit.call(set_pool, "thin", 2, actor="test")
    with pytest.raises(Conflict):
        kit.apply({"a": {"pool": "thin", "pool_slots": 3}})
    kit.apply({"big": {"pool": "thin", "pool_slots": 2, "priority": 1}, "small": {"pool": "thin"}})
    kit.call(set_pool, "thin", 1, actor="test")
    # It takes the whole pool: neither can it never run, nor do the others wait for it for ever.
    kit.stub.hold("big")
    run = kit.run()
    assert kit.states(run) == {"big": "running", "small": "ready"}
    kit.stub.release("big")
    kit.settle()
    assert kit.state(run) == "success"


def test_an_executor_takes_no_more_than_its_slots(kit):
    _slots(kit, 2)
    kit.apply(MANY)
    kit.stub.hold(*MANY)
    kit.run()
    assert len(kit.stub.running) == 2
    _drain(kit, MANY, most=2)


def test_a_node_goes_to_the_executor_it_names(kit):
    second = StubExecutor(kit.stub._context)
    second.start(kit.inbox.emit)
    kit.loop._executors["local"] = second  # a stub in its place
    kit.apply({"a": {}, "b": {"executor": "local"}, "c": {"executor": "local", "needs": ["a", "b"]}})
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.started() == ["a"]
    assert [workload.node for workload in second.submitted] == ["b", "c"]
    assert {name: node["executor"] for name, node in kit.nodes(run).items()} == {
        "a": "stub",
        "b": "local",
        "c": "local",
    }


def test_the_parallelism_of_a_scheduler_is_shared_by_its_executors(kit):
    kit.close()
    kit = Kit(kit.engine, kit.settings.home, parallelism=4)
    second = StubExecutor(kit.stub._context)
    second.start(kit.inbox.emit)
    kit.loop._executors["local"] = second  # a stub in its place
    names = [f"{executor}{number}" for executor in ("a", "b") for number in range(6)]
    kit.apply({name: {"executor": "local"} if name[0] == "b" else {} for name in names})
    for stub in (kit.stub, second):
        stub.hold(*names)
    run = kit.run()
    started = set()
    for _ in names:
        # Four at any time, whoever runs them; and neither waits until the other has nothing more.
        running = kit.stub.running + second.running
        started |= {workload.node[0] for workload in running}
        assert len(running) == min(4, list(kit.states(run).values()).count("running"))
        ended = running[0]
        stub = kit.stub if ended.node[0] == "a" else second
        stub._end(ended, stub._next_ending(ended))
        kit.settle()
        if len(running) == 4:
            assert len(kit.stub.running + second.running) <= 4
    assert kit.state(run) == "success"
    assert started == {"a", "b"}
    kit.close()


def test_a_node_of_an_executor_or_queue_that_is_not_served_waits_and_blocks_nobody(kit):
    kit.apply({"a": {"executor": "local"}, "b": {"queue": "far"}, "c": {}})
    assert kit.states(kit.run()) == {"a": "ready", "b": "ready", "c": "success"}


def test_workflows_of_equal_priority_take_turns(kit):
    kit.apply({f"n{i}": {} for i in range(20)}, name="large")
    kit.apply({"x": {}, "y": {}}, name="small")
    _slots(kit, 4)
    kit.create("large")
    kit.create("small")
    kit.settle()
    assert set(kit.started()[:4]) == {"n0", "n1", "x", "y"}


def test_a_lost_node_keeps_no_slot(kit):
    kit.call(set_pool, "one", 1, actor="test")
    kit.apply({"a": {"pool": "one"}, "b": {"pool": "one", "needs": ["a"]}})
    kit.stub.script("a", lose(), lose(starts=False), lose())
    run = kit.run()
    assert kit.states(run)["a"] == "failed"  # the last ending holds for all later attempts
    kit.stub._scripts.clear()
    kit.clear(run)
    kit.settle()
    assert kit.state(run) == "success"


def _running(kit, ids):
    return {key for key, run in ids.items() if kit.state(run) == "running"}


def _slots(kit, parallelism):
    kit.stub._context = type(kit.stub._context)(
        parallelism=parallelism, bundles_dir=kit.stub._context.bundles_dir, work_dir=kit.stub._context.work_dir
    )


def _drain(kit, names, *, most):
    """Let held nodes end one by one; never more than `most` run."""
    while kit.stub.running:
        workload = kit.stub.running[0]
        kit.stub._end(workload, kit.stub._next_ending(workload))
        kit.settle()
        assert len(kit.stub.running) <= most

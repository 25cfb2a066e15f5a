"""Claims where more workflows have work than one claim looks at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentflow.catalog.state import set_paused
from agentflow.db.queries import claims
from agentflow.settings_store import set_pool
from scheduler import crowd

WORKFLOWS = 11


@pytest.fixture
def narrow(monkeypatch):
    """A claim looks at three groups."""
    monkeypatch.setattr(claims, "WINDOW", 3)


def queue(kit, count=WORKFLOWS, **node):
    names = [f"flow{number}" for number in range(count)]
    for name in names:
        kit.apply({"a": node}, name)
    return [kit.create(name) for name in names]


def test_every_workflow_has_its_turn(kit, narrow):
    runs = queue(kit)
    kit.settle()
    assert {kit.state(run) for run in runs} == {"success"}


def test_a_full_pool_of_many_workflows_keeps_no_other_from_starting_and_does_not_spin(kit, narrow):
    kit.call(set_pool, "shut", 0, actor="test")
    held = queue(kit, pool="shut")
    kit.settle()
    assert {kit.state(run) for run in held} == {"running"}
    kit.apply({"b": {}}, "other")
    assert kit.state(kit.run("other")) == "success"
    kit.apply({"c": {}}, "another")
    assert kit.state(kit.run("another")) == "success"
    kit.call(set_pool, "shut", 1, actor="test")
    kit.settle()
    assert {kit.state(run) for run in held} == {"success"}


def test_with_few_slots_claims_go_round(kit, narrow):
    """A slot at a time: those behind the first window need not wait until that has nothing left."""
    kit.call(set_pool, "one", 1, actor="test")
    nodes = {f"n{number}": {"pool": "one"} for number in range(4)}
    for number in range(6):
        kit.apply(nodes, f"flow{number}")
    for number in range(6):
        kit.create(f"flow{number}")
    order = []
    submit = kit.stub.submit

    def noted(workloads):
        order.extend(workload.workflow for workload in workloads)
        submit(workloads)

    kit.stub.submit = noted
    kit.settle()
    assert len(order) == 24
    first, others = ({"flow0", "flow1", "flow2"}, {"flow3", "flow4", "flow5"})
    last_of_first = max(place for place, name in enumerate(order) if name in first)
    assert min(place for place, name in enumerate(order) if name in others) < last_of_first


@pytest.fixture
def crowded(monkeypatch):
    """Three groups are a crowd, and claims take from what an earlier look found."""
    monkeypatch.setattr(crowd, "FEW", 2)
    monkeypatch.setattr(crowd, "LEAST", 1)
    monkeypatch.setattr(crowd, "PER_SLOT", 1)
    monkeypatch.setattr(crowd, "FRESH", 60.0)
    looks = []
    look = claims.lock_groups
    monkeypatch.setattr(claims, "lock_groups", lambda *given, **named: looks.append(1) or look(*given, **named))
    return looks


def test_a_crowd_is_served_without_looking_for_groups_again(kit, crowded):
    kit.call(set_pool, "one", 1, actor="test")
    runs = queue(kit, pool="one")
    kit.settle()
    assert {kit.state(run) for run in runs} == {"success"}
    assert sorted(kit.started()) == ["a"] * WORKFLOWS
    assert len(crowded) < WORKFLOWS


def test_what_a_crowd_lost_meanwhile_is_not_started(kit, crowded):
    kit.call(set_pool, "one", 1, actor="test")
    runs = queue(kit, pool="one")
    kit.stub.hold("a")
    kit.starter.work()
    kit.tick()
    assert len(kit.started()) == 1
    kit.call(set_paused, "flow3", paused=True, actor="test")
    kit.cancel(runs[4])
    kit.stub.release("a")
    kit.settle()
    states = {number: kit.state(run) for number, run in enumerate(runs)}
    assert (states.pop(3), states.pop(4)) == ("running", "cancelled")
    assert set(states.values()) == {"success"}


def test_a_crowd_before_a_full_pool_keeps_no_other_from_starting(kit, crowded):
    kit.call(set_pool, "one", 1, actor="test")
    held = queue(kit, pool="one")
    kit.stub.hold("a")
    kit.starter.work()
    kit.tick()
    kit.apply({"b": {}}, "other")
    assert kit.state(kit.run("other")) == "success"
    kit.stub.release("a")
    kit.settle()
    assert {kit.state(run) for run in held} == {"success"}


def test_a_loop_without_slots_sleeps_whatever_it_looked_for_before(kit, crowded):
    kit.stub._context = replace(kit.stub._context, parallelism=1)
    kit.stub.hold("a")
    queue(kit)
    kit.starter.work()
    kit.tick()
    assert len(kit.stub.running) == 1
    kit.loop._claimer._tour.looked(300, {("other", False)}, took=False, seconds=0, now=0)
    assert kit.loop._claimer.due_in() == 0
    kit.tick()
    assert kit.loop._claimer.due_in() is None
    kit.loop._claimer._tour.looked(300, {("other", False)}, took=False, seconds=0, now=0)
    kit.loop._draining = True
    assert kit.loop._claim_in() is None

"""Claims where more workflows have work than one claim looks at."""

from __future__ import annotations

import pytest

from agentflow.db.queries import claims
from agentflow.settings_store import set_pool

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

"""Which queued runs start where more workflows have any than one look sees."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from agentflow.catalog.state import set_paused
from agentflow.db.engine import transact
from agentflow.db.queries import queued

WORKFLOWS = 8


@pytest.fixture
def narrow(monkeypatch):
    """A look sees three workflows."""
    monkeypatch.setattr(queued, "WINDOW", 3)


def at_their_limits(kit, count=WORKFLOWS):
    """Each with a run under way, and one that waits for its end."""
    kit.stub.hold("a")
    names = [f"flow{number}" for number in range(count)]
    for name in names:
        kit.apply({"a": {}}, name, max_active_runs=1)
    first, second = ([kit.create(name) for name in names] for _ in range(2))
    kit.settle()
    assert {kit.state(run) for run in first} == {"running"}
    assert {kit.state(run) for run in second} == {"queued"}
    return first, second


def test_all_start_in_windows(kit, narrow):
    names = [f"flow{number}" for number in range(WORKFLOWS)]
    for name in names:
        kit.apply({"a": {}}, name)
    runs = [kit.create(name) for name in names]
    kit.starter.work()
    assert {kit.state(run) for run in runs} == {"running"}


def test_workflows_at_their_limits_keep_no_other_from_starting(kit, narrow):
    at_their_limits(kit)
    kit.apply({"b": {}}, "other")
    assert kit.state(kit.run("other")) == "success"


def test_the_next_run_starts_when_one_has_ended(kit, narrow):
    first, second = at_their_limits(kit)
    kit.stub.release("a")
    kit.tick_events_only()  # applies the ends, and with them the workflows are known
    kit.tick()
    assert {kit.state(run) for run in first} == {"success"}
    kit.settle()
    assert {kit.state(run) for run in second} == {"success"}


@pytest.mark.parametrize("reason", ["limit", "paused", "nothing queued"])
def test_the_ended_ones_workflow_is_looked_at_and_its_limits_hold(kit, reason):
    kit.stub.hold("a")
    kit.apply({"a": {}}, max_active_runs=2)
    first = [kit.create() for _ in range(2)]
    kit.settle()
    waiting = [] if reason == "nothing queued" else [kit.create() for _ in range(3)]
    if reason == "paused":
        kit.call(set_paused, "flow", paused=True, actor="test")
    else:
        kit.cancel(first[0])
        kit.tick()
        kit.tick()
    workflow = kit.row("SELECT id FROM workflow WHERE name = 'flow'").id
    transact(kit.own, lambda connection: queued.start_small(connection, [workflow], after=workflow))
    started = [run for run in waiting if kit.state(run) == "running"]
    assert started == (waiting[:1] if reason == "limit" else [])


def test_looks_at_a_crowd_at_its_limits_are_followed_by_rests(kit, narrow, monkeypatch):
    at_their_limits(kit)
    now, step = time.monotonic() + 1000, 0.1

    def clock():
        nonlocal now
        now += step
        return now

    monkeypatch.setattr("scheduler.starter.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("scheduler.starter.REST", 5.0)
    looks = []
    look = queued.start_waiting
    monkeypatch.setattr(
        "scheduler.starter.start_waiting", lambda *given, **named: looks.append(1) or look(*given, **named)
    )
    assert 0 < kit.starter.work() < 1
    assert len(looks) == WORKFLOWS // 3 + 1
    assert 0 < kit.starter.work() < 1
    assert len(looks) == WORKFLOWS // 3 + 1
    now += 10
    kit.starter.work()
    assert len(looks) == 2 * (WORKFLOWS // 3 + 1)


def test_the_loop_waits_for_nobody_who_has_a_workflow_locked(kit):
    kit.apply({"a": {}})
    run = kit.create()
    with kit.engine.begin() as other:
        other.execute(text("SELECT FROM workflow FOR NO KEY UPDATE"))
        found = transact(kit.own, lambda connection: queued.start_small(connection, [1]))
        assert found.started == []
    kit.settle()
    assert kit.state(run) == "success"


def test_a_claim_waits_for_nobody_who_has_a_workflow_locked(kit):
    """As whoever starts a large run does: nodes of that workflow with a limit wait for a moment, others do not."""
    for name, limit in (("limited", 2), ("other", None)):
        kit.apply({"a": {}}, name, **({"concurrency": limit} if limit else {}))
    kit.stub.hold("a")
    runs = [kit.create(name) for name in ("limited", "other")]
    kit.starter.work()
    with kit.engine.begin() as other:
        other.execute(text("SELECT FROM workflow WHERE name = 'limited' FOR NO KEY UPDATE"))
        kit.tick()
        assert [workload.workflow for workload in kit.stub.running] == ["other"]
        assert 0 <= kit.loop._pause() < 0.1
    kit.settle()
    assert len(kit.stub.running) == 2
    kit.stub.release("a")
    kit.settle()
    assert {kit.state(run) for run in runs} == {"success"}

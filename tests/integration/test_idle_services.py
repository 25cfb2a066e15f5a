"""Services with nothing to do sleep: one that asks for its next round at once takes a processor from everybody."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scheduler.fires import Fires
from scheduler.identity import Heartbeat
from scheduler.recovery import Recovery

REST = 1.0  # seconds


@pytest.fixture
def services(kit):
    return {
        "gates": kit.gates,
        "starter": kit.starter,
        "ends": kit.ends,
        "fires": Fires(kit.own, lambda: None),
        "recovery": Recovery(kit.own, kit.identity, lambda: None),
        "heartbeat": Heartbeat(kit.own, kit.identity, lambda: None),
    }


@pytest.mark.parametrize("name", ["gates", "starter", "ends", "fires", "recovery", "heartbeat"])
def test_a_service_without_work_sleeps(kit, services, name):
    assert [services[name].work() >= REST for _ in range(2)] == [True, True]
    kit.apply({"a": {}, "b": {"needs": ["a"], "when": "{{ nodes.a.state == 'success' }}"}})
    assert kit.state(kit.run()) == "success"
    assert [services[name].work() >= REST for _ in range(2)] == [True, True]


def test_a_wait_that_has_come_due_is_looked_for_a_moment_and_not_for_ever(kit, monkeypatch):
    now = began = 1000.0
    monkeypatch.setattr("scheduler.gates.time", SimpleNamespace(monotonic=lambda: now))
    kit.apply({"w": {"type": "wait", "config": {"for": "2h"}}})
    run = kit.run()
    assert kit.gates.work() == 5
    now = began + 7200 - REST
    assert kit.gates.work() == pytest.approx(REST, abs=0.5)
    now = began + 7200.05  # the database's clock says that it is not due: that may be a matter of milliseconds
    assert 0 < kit.gates.work() < REST
    now += REST  # and if it is not due by now, the look every few seconds will find it
    assert kit.gates.work() == 5
    assert kit.states(run) == {"w": "deferred"}


def test_each_of_several_waits_has_its_look(kit, monkeypatch):
    now = began = 1000.0
    monkeypatch.setattr("scheduler.gates.time", SimpleNamespace(monotonic=lambda: now))
    kit.apply({name: {"type": "wait", "config": {"for": f"{hours}h"}} for name, hours in {"v": 1, "w": 2}.items()})
    run = kit.run()
    now = began + 3600 + REST
    kit.pass_time(3600 + REST)
    assert kit.states(run) == {"v": "success", "w": "deferred"}
    now = began + 7200 - REST
    assert kit.gates.work() == pytest.approx(REST, abs=0.5)

"""The outbox of ended runs while somebody reads it."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from executors.stub import fail, succeed

_WAITERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def until_somebody_waits(kit, work):
    """Until `work` waits for a lock, or has ended."""
    deadline = time.monotonic() + 30
    while not kit.row(_WAITERS).n and time.monotonic() < deadline and not work.done():
        pass


def test_a_run_that_ends_again_while_its_first_end_is_told_is_told_again(kit):
    kit.apply({"a": {}})
    run = kit.run()
    key = {"run": uuid.UUID(run)}
    kit.sql("INSERT INTO run_end (run_id) VALUES (:run)", **key)
    with kit.engine.connect() as teller, ThreadPoolExecutor(1) as pool:
        teller.execute(text("SELECT FROM run_end WHERE run_id = :run FOR UPDATE"), key)
        kit.clear(run)
        again = pool.submit(lambda: [kit.tick() for _ in range(3)])
        until_somebody_waits(kit, again)
        teller.execute(text("DELETE FROM run_end WHERE run_id = :run"), key)
        teller.commit()
        again.result(30)
    assert kit.state(run) == "success"
    assert kit.row("SELECT count(*) AS n FROM run_end WHERE run_id = :run", **key).n == 1


def test_who_tells_an_end_locks_runs_before_workflows_as_a_hop_does(kit):
    """A hop holds the runs whose attempts ended and then locks the limited workflows that it claims from."""
    kit.apply({"a": {}}, max_consecutive_failures=1, concurrency=1)
    kit.stub.hold("a")
    awaited = kit.run()
    kit.apply({"w": {"type": "wait", "config": {"run": awaited}}}, "waits")
    waiting = kit.run("waits")
    kit.stub.release("a", fail())
    kit.tick()
    assert (kit.state(awaited), kit.states(waiting)) == ("failed", {"w": "deferred"})
    with kit.engine.connect() as hop, ThreadPoolExecutor(1) as pool:
        hop.execute(text("SELECT FROM run WHERE id = :run FOR NO KEY UPDATE"), {"run": uuid.UUID(waiting)})
        told = pool.submit(kit.ends.work)
        until_somebody_waits(kit, told)
        assert not told.done()
        hop.execute(text("SELECT FROM workflow WHERE name = 'flow' FOR NO KEY UPDATE NOWAIT"))
        hop.commit()
        told.result(30)
    assert kit.row("SELECT paused FROM workflow WHERE name = 'flow'").paused is True
    kit.settle()
    assert kit.states(waiting) == {"w": "failed"}


def test_who_tells_the_end_of_a_sub_run_locks_its_parent_and_who_waits_for_it_in_order(kit):
    kit.apply({"a": {}}, "inner")
    kit.apply({"s": {"type": "workflow", "config": {"name": "inner"}}}, "outer")
    kit.apply({"h": {}, "w": {"needs": ["h"], "type": "wait", "config": {"run": "{{ nodes.h.output }}"}}}, "waits")
    kit.stub.hold("a", "h")
    waiting, outer = kit.run("waits"), kit.run("outer")
    assert waiting < outer
    (inner,) = kit.rows("SELECT id FROM run WHERE parent_run_id = :run", run=uuid.UUID(outer))
    kit.stub.release("h", succeed(str(inner.id)))
    kit.settle()
    assert kit.states(waiting)["w"] == "deferred"
    kit.stub.release("a")
    kit.tick()
    lock = text("SELECT FROM run WHERE id = :run FOR NO KEY UPDATE NOWAIT")
    with kit.engine.connect() as hop, ThreadPoolExecutor(1) as pool:
        hop.execute(lock, {"run": uuid.UUID(waiting)})
        told = pool.submit(kit.ends.work)
        until_somebody_waits(kit, told)
        assert not told.done()
        hop.execute(lock, {"run": uuid.UUID(outer)})
        hop.commit()
        told.result(30)
    kit.settle()
    assert [kit.state(run) for run in (waiting, outer)] == ["success", "success"]

"""`why` asked of a real engine: what keeps a node waiting is what it says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentflow import backfills
from agentflow.catalog import set_paused
from agentflow.errors import NotFound, UsageError
from agentflow.runs import why
from executors.stub import fail, succeed


def ask(kit, run, node):
    return kit.call(why, run, node, workspace="default")


def codes(kit, run, node):
    return [reason["code"] for reason in ask(kit, run, node)["reasons"]]


def test_upstreams_and_what_runs(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.stub.hold("a")
    run = kit.run()
    assert codes(kit, run, "a") == ["running"]
    answer = ask(kit, run, "b")
    assert answer["reasons"][0]["detail"]["waiting"] == [{"node": "a", "state": "running"}]
    assert (answer["state"], answer["run_state"]) == ("pending", "running")
    kit.stub.release("a")
    kit.settle()
    assert codes(kit, run, "b") == ["ended"]


def test_a_full_pool_names_who_holds_it_and_what_comes_first(kit):
    kit.sql("UPDATE pool SET slots = 1 WHERE name = 'default'")
    try:
        kit.apply({"hog": {}}, "other")
        kit.apply({"a": {}, "b": {}, "c": {"priority": 5}})
        kit.stub.hold("hog")
        other = kit.run("other")
        run = kit.run()
        (full, position) = ask(kit, run, "b")["reasons"]
        assert (full["code"], position["code"]) == ("pool-full", "queue-position")
        assert full["detail"]["holders"] == [{"workflow": "other", "run": other, "node": "hog", "slots": 1}]
        assert position["detail"] == {"ahead": 2}
        assert codes(kit, run, "c") == ["pool-full"]
        kit.stub.release("hog")
        kit.settle()
        assert kit.state(run) == "success"
    finally:
        kit.sql("UPDATE pool SET slots = 128 WHERE name = 'default'")


def test_pauses_and_limits_of_runs(kit):
    kit.apply({"a": {}}, max_active_runs=1)
    kit.stub.hold("a")
    first, second = kit.run(), kit.run()
    (limit,) = ask(kit, second, "a")["reasons"]
    assert (limit["code"], limit["detail"]["running"]) == ("max-active-runs", [first])
    third = kit.run()
    assert ask(kit, third, "a")["reasons"][0]["detail"]["ahead"] == 1
    kit.call(set_paused, "flow", paused=True, actor="test")
    assert codes(kit, second, "a") == ["paused", "max-active-runs"]
    kit.stub.release("a")


@pytest.mark.parametrize("reverse", [False, True])
def test_a_run_of_a_backfill_waits_for_that_one_s_runs_and_for_nobody_else_s(kit, reverse):
    kit.apply({"a": {}}, triggers=[{"type": "cron", "cron": "0 6 * * *"}], max_active_runs=1)
    kit.stub.hold("a")
    live = [kit.run(), kit.run()]
    asked = backfills.Asked("2026-03-02", "2026-03-05", max_active_runs=3, reverse=reverse)
    backfill = kit.call(backfills.create_backfill, "flow", asked, actor="test")["id"]
    kit.settle()
    kit.sql("UPDATE backfill SET max_active_runs = 5")
    kit.call(set_paused, "flow", paused=True, actor="test")
    kit.settle()
    kit.call(set_paused, "flow", paused=False, actor="test")
    kit.sql("UPDATE backfill SET max_active_runs = 3")
    queued = str(kit.row("SELECT id FROM run WHERE backfill_id IS NOT NULL AND state = 'queued'").id)
    (limit,) = ask(kit, queued, "a")["reasons"]
    assert (limit["code"], limit["detail"]["limit"], limit["detail"]["ahead"]) == ("max-active-runs", 3, 0)
    assert len(limit["detail"]["running"]) == 3
    assert ask(kit, live[1], "a")["reasons"][0]["detail"]["running"] == [live[0]]
    kit.call(backfills.set_backfill_paused, backfill, True, actor="test")
    assert codes(kit, queued, "a") == ["backfill-paused", "max-active-runs"]
    kit.call(backfills.cancel_backfill, backfill, running=True, actor="test")
    kit.stub.release("a")
    kit.settle()


def test_a_run_that_depends_on_one_that_failed(kit):
    kit.apply({"a": {}}, depends_on_past=True)
    kit.stub.script("a", fail())
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    before = kit.create(logical_date=days[0])
    kit.sql("UPDATE run SET triggered_by = 'cron'")
    kit.settle()
    after = kit.create(logical_date=days[1])
    kit.sql("UPDATE run SET triggered_by = 'cron'")
    kit.settle()
    (reason,) = ask(kit, after, "a")["reasons"]
    assert (reason["code"], reason["detail"]) == ("depends-on-past", {"run": before, "state": "failed"})


def test_concurrency_of_the_workflow(kit):
    kit.apply({"a": {}, "b": {}}, concurrency=1)
    kit.stub.hold("a", "b")
    run = kit.run()
    waiting = next(node for node, state in kit.states(run).items() if state == "ready")
    assert codes(kit, run, waiting) == ["concurrency"]
    for node in ("a", "b"):
        kit.stub.release(node)


def test_a_queue_that_nobody_serves(kit):
    kit.apply({"a": {"queue": "gpu"}})
    assert codes(kit, kit.run(), "a") == ["queue-unserved"]


def test_nothing_starts_while_no_scheduler_beats(kit):
    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    waiting = kit.create()
    kit.sql("UPDATE scheduler SET beat_at = clock_timestamp() - interval '1 min'")
    assert codes(kit, run, "a") == ["scheduler-gone"]
    assert codes(kit, waiting, "a") == ["no-scheduler"]
    kit.stub.release("a")


def test_retries_tell_the_error_and_when(kit):
    kit.apply({"a": {"retries": 1}})
    kit.stub.script("a", fail("boom"), succeed())
    run = kit.run()
    (reason,) = ask(kit, run, "a")["reasons"]
    assert reason["code"] == "retry"
    assert "boom" in reason["fact"]
    assert reason["detail"]["failures"] == 1


def test_maps_indexes_and_sub_runs(kit):
    kit.apply({"work": {}}, "child")
    kit.apply(
        {"m": {"for_each": [1, 2], "max_parallel": 1}, "s": {"type": "workflow", "config": {"name": "child"}}},
    )
    kit.stub.hold("m", "work")
    run = kit.run()
    assert codes(kit, run, "m") == ["indexes"]
    assert codes(kit, run, "m[0]") == ["running"]
    assert codes(kit, run, "m[1]") == ["max-parallel"]
    assert codes(kit, run, "s") == ["sub-run"]
    inner = ask(kit, run, "s.sub[0].work")
    assert inner["reasons"][0]["code"] == "running"
    assert inner["run"] == ask(kit, run, "s")["reasons"][0]["detail"]["runs"][0]["id"]
    assert codes(kit, run, "s.sub[0]") == ["running"]
    for node in ("m", "work"):
        kit.stub.release(node)


def test_what_is_not_there(kit):
    kit.apply({"a": {}})
    run = kit.run()
    with pytest.raises(NotFound):
        ask(kit, run, "b")
    with pytest.raises(UsageError):
        ask(kit, run, "a[")
    with pytest.raises(NotFound):
        kit.call(why, run, "a", workspace="elsewhere")

"""Each reason for which a node run may wait, as a table over facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.runs.why.facts import (
    AttemptFacts,
    Facts,
    Holder,
    NodeFacts,
    PoolFacts,
    RunFacts,
    SchedulerFacts,
    Upstream,
)
from agentflow.runs.why.reasons import AHEAD_BOUND, explain
from agentflow.states import NodeRunState, RunState

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
RUN = RunFacts(id="r1", state=RunState.RUNNING, workflow="flow", now=NOW)
QUEUED = replace(RUN, state=RunState.QUEUED)
SCHEDULER = SchedulerFacts("s1", "host", ("local", "subprocess"), ("default",), parallelism=4, used=0)
BUSY = replace(SCHEDULER, used=4)
POOL = PoolFacts("default", slots=8, used=0)
ATTEMPT = AttemptFacts(2, "queued", "local", NOW, None, scheduler_alive=True)


def node(state, **keys):
    return NodeFacts(address="a", state=NodeRunState(state), type="noop", **keys)


def facts(run=RUN, of=None, pool=None, schedulers=(SCHEDULER,), attempt=None):
    return Facts(run, of, pool, tuple(schedulers), attempt)


def ready(run=RUN, pool=POOL, schedulers=(SCHEDULER,), **keys):
    return facts(run, node("ready", ready_at=NOW, **keys), pool, schedulers)


RUNNING_UP = Upstream("up", NodeRunState.RUNNING)
FAILED_UP = Upstream("up", NodeRunState.FAILED)
FULL = PoolFacts("small", slots=2, used=2, holders=(Holder("other", "r9", "big[3]", 2),))

CASES = {
    # The run has not started.
    "about to start": (facts(QUEUED), ["starting"]),
    "paused": (facts(replace(QUEUED, paused=True)), ["paused"]),
    "nobody alive": (facts(QUEUED, schedulers=()), ["no-scheduler"]),
    "too many runs": (facts(replace(QUEUED, active_count=16, active=("r0",))), ["max-active-runs"]),
    "the one before failed": (facts(replace(QUEUED, blocked_by_past=("r0", "failed"))), ["depends-on-past"]),
    "its backfill is paused": (
        facts(replace(QUEUED, backfill="b1", backfill_paused=True, active_count=16)),
        ["backfill-paused", "max-active-runs"],
    ),
    "everything at once": (
        facts(replace(QUEUED, paused=True, active_count=16, blocked_by_past=("r0", "failed")), schedulers=()),
        ["paused", "no-scheduler", "max-active-runs", "depends-on-past"],
    ),
    "run FILE's": (facts(replace(QUEUED, reserved_for="s9", paused=True)), ["reserved"]),
    "a sub-run ignores pauses": (facts(replace(QUEUED, sub_run=True, paused=True)), ["starting"]),
    "a sub-run needs a scheduler": (
        facts(replace(QUEUED, sub_run=True), schedulers=()),
        ["no-scheduler", "starting"],
    ),
    "cancelled before it started": (facts(replace(RUN, state=RunState.CANCELLED)), ["run-ended"]),
    "a sub-run under way, asked about as a whole": (facts(replace(RUN, started=True)), ["running"]),
    "a sub-run that has ended": (facts(replace(RUN, started=True, state=RunState.SUCCESS)), ["run-ended"]),
    "being cancelled": (facts(replace(RUN, cancelling=True), node("running")), ["cancelling"]),
    # pending
    "upstream running": (
        facts(of=node("pending", upstreams=(RUNNING_UP,), upstream_count=2, done_count=1)),
        ["upstreams"],
    ),
    "expressions": (facts(of=node("pending", gated=True, resume_at=NOW)), ["evaluation"]),
    "expressions without a scheduler": (
        facts(of=node("pending", gated=True, resume_at=NOW), schedulers=()),
        ["no-scheduler", "evaluation"],
    ),
    "an early rule is decided while others run": (
        facts(of=node("pending", upstreams=(RUNNING_UP,), upstream_count=1, resume_at=NOW)),
        ["evaluation"],
    ),
    "index beyond max_parallel": (facts(of=node("pending", is_index=True, max_parallel=3)), ["max-parallel"]),
    # ready
    "about to be claimed": (ready(), ["queue-position"]),
    "others first": (ready(ahead=3), ["queue-position"]),
    "workflow paused": (ready(replace(RUN, paused=True, pause_reason="5 failures in a row")), ["paused"]),
    "a pause does not hold up run FILE": (ready(replace(RUN, paused=True, reserved_for="s1")), ["queue-position"]),
    "pool full": (ready(pool=FULL), ["pool-full"]),
    "pool too small for it, but free": (ready(pool=PoolFacts("p", 2, 0), pool_slots=5), ["queue-position"]),
    "pool without slots": (ready(pool=PoolFacts("p", 0, 0)), ["pool-full"]),
    "pool nearly full": (ready(pool=PoolFacts("p", 4, 2), pool_slots=3), ["pool-full"]),
    "concurrency": (ready(replace(RUN, concurrency=2, concurrent=2)), ["concurrency"]),
    "queue nobody serves": (ready(queue="gpu"), ["queue-unserved"]),
    "executor nobody has": (ready(executor="kubernetes"), ["executor-unavailable"]),
    "no slot": (ready(schedulers=(BUSY,)), ["no-executor-slot"]),
    "one of two has a slot": (ready(schedulers=(BUSY, SCHEDULER)), ["queue-position"]),
    "lanes do not take slots": (ready(schedulers=(BUSY,), io=True), ["queue-position"]),
    "full pool and others first": (ready(pool=FULL, ahead=AHEAD_BOUND), ["pool-full", "queue-position"]),
    "ready without a scheduler": (ready(schedulers=()), ["no-scheduler"]),
    # with the executor
    "handed over": (facts(of=node("queued"), attempt=ATTEMPT), ["with-executor"]),
    "its scheduler is gone": (
        facts(of=node("queued"), attempt=replace(ATTEMPT, scheduler_alive=False)),
        ["scheduler-gone"],
    ),
    "running": (facts(of=node("running"), attempt=replace(ATTEMPT, started_at=NOW)), ["running"]),
    "running on a dead one": (
        facts(of=node("running"), attempt=replace(ATTEMPT, scheduler_alive=False)),
        ["scheduler-gone"],
    ),
    # waiting
    "map": (facts(of=node("deferred", resume_key="map", map_open=7)), ["indexes"]),
    "sub-run": (facts(of=node("deferred", resume_key="subrun", sub_runs=(("r2", "running"),))), ["sub-run"]),
    "until a time": (facts(of=node("deferred", resume_at=NOW + timedelta(hours=1))), ["deferred"]),
    "over-due without a scheduler": (
        facts(of=node("deferred", resume_at=NOW), schedulers=()),
        ["deferred", "no-scheduler"],
    ),
    "retry": (facts(of=node("retrying", resume_at=NOW), attempt=ATTEMPT), ["retry"]),
    # ended
    "success": (facts(of=node("success")), ["ended"]),
    "upstream failed": (facts(of=node("upstream_failed", upstreams=(FAILED_UP,))), ["ended"]),
    "failed": (facts(of=node("failed", error={"message": "boom\nmore"})), ["ended"]),
    "skipped": (facts(of=node("skipped")), ["ended"]),
    "cancelled": (facts(of=node("cancelled")), ["ended"]),
}


@pytest.mark.parametrize(("given", "codes"), CASES.values(), ids=CASES)
def test_the_reasons_are_told_the_most_important_first(given, codes):
    reasons = explain(given)
    assert [reason.code for reason in reasons] == codes
    assert all(reason.fact and reason.advice for reason in reasons)


def fact(given):
    return explain(given)[0].fact


def test_facts_name_what_is_in_the_way():
    assert "up (running)" in fact(CASES["upstream running"][0])
    assert "1 of 2 upstreams is not done" in fact(CASES["upstream running"][0])
    assert "other/big[3] (2)" in fact(CASES["pool full"][0])
    assert "5 failures in a row" in fact(CASES["workflow paused"][0])
    assert fact(CASES["failed"][0]) == "It failed: boom"
    assert f"{AHEAD_BOUND} or more" in explain(CASES["full pool and others first"][0])[1].fact
    assert "all_success" in fact(CASES["upstream failed"][0])
    assert "2026-11-30 13:00:00 UTC" in fact(CASES["until a time"][0])
    timed = node("deferred", resume_key="subrun", sub_runs=(("r2", "running"),), resume_at=NOW)
    assert fact(facts(of=timed)).endswith("which is running; its time is up at 2026-11-30 12:00:00 UTC.")
    assert fact(CASES["a sub-run that has ended"][0]) == "It is a run of its own and has ended: success."


def test_every_state_of_a_node_run_has_an_answer():
    for state in NodeRunState:
        assert explain(facts(of=node(state), pool=POOL, attempt=ATTEMPT))

"""Waiting without a slot: deferred attempts of executors, waits for times and for other runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from agentflow.clock import iso
from executors.stub import defer, fail, lose, succeed
from scheduler.identity import Identity
from scheduler.recovery import Recovery
from scheduler.waits import sweep_waiters
from tests.engine_kit import Kit

MINUTE, DAY = 60.0, 86400.0


def wait(*needs, **keys):
    """A wait node: config keys, with `for_` for `for`; keys of the node itself in `node`."""
    node = keys.pop("node", {})
    return {"type": "wait", "needs": list(needs), "config": {name.rstrip("_"): v for name, v in keys.items()}, **node}


def held(kit):
    """What holds slots, executors, schedulers."""
    return (
        kit.row("SELECT count(*) FROM node_run WHERE state IN ('queued', 'running')")[0],
        kit.row("SELECT count(*) FROM attempt WHERE state IN ('queued', 'launching', 'running')")[0],
        len(kit.stub.running),
    )


def resume_in(kit, run, node):
    """Seconds until the node is due."""
    at = kit.nodes(run)[node]["resume_at"]
    return (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()


def another(engine, folder):
    """A second scheduler on the same database."""
    (folder / "other").mkdir()
    return Kit(engine, folder / "other")


# -- attempts that executors defer ---------------------------------------------------------------------------------


def test_a_deferred_attempt_is_held_by_nobody_and_goes_on_under_its_number(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.stub.script("a", defer(MINUTE, {"page": 1}, log=["one"]), defer(MINUTE, {"page": 2}), succeed("done"))
    run = kit.run()
    assert kit.states(run) == {"a": "deferred", "b": "pending"}
    assert kit.attempts(run, "a") == [(1, "deferred")]
    assert held(kit) == (0, 0, 0)
    assert 50 < resume_in(kit, run, "a") <= 60
    kit.pass_time(30)
    assert kit.started("a") == ["a"]
    kit.pass_time(30)
    kit.pass_time(60)
    assert kit.state(run) == "success"
    assert kit.attempts(run, "a") == [(1, "success")]
    assert kit.nodes(run)["a"]["output"] == "done"
    turns = [w.turn for w in kit.stub.submitted if w.node == "a"]
    assert [turn.state for turn in turns] == [None, {"page": 1}, {"page": 2}]
    assert [turn.waited // MINUTE for turn in turns] == [0, 1, 2]
    assert [(turn.chunks, turn.lines) for turn in turns] == [(0, 0), (1, 1), (1, 1)]
    assert [event.state for event in kit.events(run, "node") if event.node_no == 0] == [
        *("deferred", "deferred", "success"),
    ]
    assert len({w.token for w in kit.stub.submitted if w.node == "a"}) == 3


def test_a_deferral_is_at_least_a_second(kit):
    kit.apply({"a": {}})
    kit.stub.script("a", defer(0), succeed())
    run = kit.create()
    kit.starter.work()
    kit.tick()
    kit.tick()  # however slow the machine is: it is not looked at again
    (deferred,) = kit.events(run, "node")
    assert datetime.fromisoformat(deferred.detail["until"]) - deferred.at == timedelta(seconds=1)
    assert kit.state(run) == "running"
    kit.pass_time(1)
    assert kit.state(run) == "success"


def test_what_a_turn_said_counts_for_nothing_later(kit):
    kit.apply({"a": {}})
    kit.stub.script("a", defer(MINUTE), succeed("right"))
    run = kit.run()
    (first,) = kit.sent
    kit.inbox.emit(first)  # the commit was not acknowledged: the same again
    kit.settle()
    assert kit.events(run, "refused") == []
    kit.stub.hold("a")
    kit.pass_time(MINUTE)
    kit.inbox.emit(first)
    kit.settle()
    assert kit.states(run) == {"a": "running"}
    assert len(kit.events(run, "refused")) == 1
    kit.stub.release("a")
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "right"


def test_a_lost_turn_is_tried_again_with_what_the_turn_before_left(kit):
    kit.apply({"a": {}})
    kit.stub.script("a", defer(MINUTE, "left"), lose(), defer(MINUTE, "more"), succeed())
    run = kit.run()
    kit.pass_time(MINUTE)
    assert kit.attempts(run, "a") == [(1, "lost"), (2, "deferred")]
    turns = [w.turn for w in kit.stub.submitted]
    assert [turn.state for turn in turns] == [None, "left", "left"]
    assert turns[2].waited >= MINUTE
    assert turns[2].chunks == 0  # a log of its own
    assert kit.row("SELECT losses FROM node_run")[0] == 0  # a turn that came to its end
    kit.pass_time(MINUTE)
    assert kit.state(run) == "success"


def test_a_failed_attempt_begins_anew(kit):
    kit.apply({"a": {"retries": 1, "retry_delay": "0s"}})
    kit.stub.script("a", defer(MINUTE, "left"), fail(), succeed())
    run = kit.run()
    kit.pass_time(MINUTE)
    assert kit.attempts(run, "a") == [(1, "failed"), (2, "success")]
    assert kit.stub.submitted[-1].turn.state is None


def test_the_attempts_timeout_counts_pauses(kit):
    kit.apply({"a": {"timeout": "90s"}})
    kit.stub.script("a", defer(MINUTE), defer(MINUTE), succeed())
    run = kit.run()
    kit.pass_time(MINUTE)
    limits = [w.limits.timeout for w in kit.stub.submitted]
    assert limits[0] == 90
    assert 25 < limits[1] <= 30
    kit.pass_time(MINUTE)
    assert len(kit.stub.submitted) == 2
    assert kit.nodes(run)["a"]["error"] == {"type": "Timeout", "message": "did not end within its timeout of 90 s"}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("act", ["cancel", "clear", "mark"])
def test_deferred_attempts_can_be_cancelled_cleared_and_marked(kit, act, released):
    """Also in the moment between their time and their next turn, when nothing may be claimed."""
    kit.apply({"a": {}})
    kit.stub.script("a", defer(MINUTE), succeed())
    run = kit.run()
    if released:
        kit.sql("UPDATE workflow SET paused = true")
        kit.pass_time(MINUTE)
        assert kit.states(run) == {"a": "ready"}
    if act == "mark":
        kit.mark(run, "a", "skipped")
    else:
        getattr(kit, act)(run)
    kit.sql("UPDATE workflow SET paused = false")
    kit.settle()
    assert kit.attempts(run, "a")[0] == (1, "cancelled")
    assert kit.state(run) == {"cancel": "cancelled", "clear": "success", "mark": "success"}[act]


# -- waits for times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({"for_": "90s"}, 90),
        ({"for_": "{{ params.pause }}"}, 120),
        ({"until": "{{ params.in_two_hours }}"}, 7200),
        ({"until": "2020-01-01"}, 0),
        ({"for_": "0s"}, 0),
        ({"for_": "2h", "timeout": "3h"}, 7200),
    ],
)
def test_a_wait_for_a_time_needs_no_executor(kit, config, seconds):
    texts = {"type": "string", "default": "2m"}
    kit.apply({"w": wait(**config), "after": {"needs": ["w"]}}, params={"pause": texts, "in_two_hours": texts})
    run = kit.run(params={"in_two_hours": iso(datetime.now(UTC) + timedelta(hours=2))})
    if seconds:
        assert kit.states(run) == {"w": "deferred", "after": "pending"}
        assert held(kit) == (0, 0, 0)
        assert seconds - 60 < resume_in(kit, run, "w") <= seconds
        kit.pass_time(seconds - 60)
        assert kit.states(run)["w"] == "deferred"
        kit.pass_time(60)
    assert kit.state(run) == "success"
    assert kit.started() == ["after"]
    output = kit.nodes(run)["w"]["output"]
    assert output == {"waited_s": pytest.approx(seconds, abs=61 if "until" in config else 10)}
    assert kit.attempts(run, "w") == [(1, "success")]


@pytest.mark.parametrize(
    ("keys", "state", "message"),
    [
        ({"timeout": "1m"}, "failed", "gave up after 1m: the time had not come"),
        ({"timeout": "1m", "soft_fail": True}, "skipped", None),
        ({"node": {"timeout": "1m"}}, "failed", "did not end within its timeout of 1m"),
        ({"node": {"timeout": "1m"}, "soft_fail": True}, "failed", "did not end within its timeout of 1m"),
    ],
)
def test_a_wait_gives_up(kit, keys, state, message):
    kit.apply({"w": wait(for_="1h", **keys)})
    run = kit.run()
    assert 0 < resume_in(kit, run, "w") <= 60
    kit.pass_time(MINUTE)
    node = kit.nodes(run)["w"]
    assert node["state"] == state
    assert (node["error"] or {}).get("message") == message


def test_retries_wait_again_from_the_beginning(kit):
    kit.apply({"w": wait(for_="1h", timeout="1m", node={"retries": 1, "retry_delay": "10s"})})
    run = kit.run()
    kit.pass_time(MINUTE)
    assert kit.states(run) == {"w": "retrying"}
    kit.pass_time(10)
    assert kit.attempts(run, "w") == [(1, "failed"), (2, "deferred")]
    assert 50 < resume_in(kit, run, "w") <= 60
    kit.pass_time(MINUTE)
    assert kit.state(run) == "failed"


def test_when_decides_before_a_wait(kit):
    kit.apply({"w": wait(for_="1h", node={"when": "{{ false }}"})})
    assert kit.states(kit.run()) == {"w": "skipped"}


def test_each_index_waits_for_its_own_time(kit):
    kit.apply({"w": wait(for_="{{ item }}", node={"for_each": ["10s", "30s", "20s"], "max_parallel": 2})})
    run = kit.run()
    assert kit.states(run) == {"w": "deferred", "w[0]": "deferred", "w[1]": "deferred", "w[2]": "pending"}
    kit.pass_time(10)
    assert kit.states(run)["w[0]"] == "success"
    assert kit.states(run)["w[2]"] == "deferred"
    kit.pass_time(20)
    assert kit.state(run) == "success"
    assert [round(one["waited_s"], -1) for one in kit.nodes(run)["w"]["output"]] == [10, 30, 20]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"for_": "{{ params.pause }}"}, "config.for: Value error, 'soon' is not a duration"),
        ({"until": "{{ params.pause }}"}, "config.until: Value error, 'soon' is not an ISO 8601 time"),
        ({"for_": "{{ params.pause + 1 }}"}, "config: for"),
        ({"run": "{{ params.pause }}"}, "must be the id of a run"),
        ({"run": {"workflow": "nowhere", "logical_date": "2026-01-01"}}, "there is no workflow 'nowhere'"),
        ({"run": {"workflow": "flow"}}, "which run of `flow` is meant? This run has no logical date"),
        ({"run": "{{ run.id }}"}, "a run that waits for itself never ends"),
        ({"run": str(uuid.UUID(int=7))}, "there is no run"),
    ],
)
def test_a_wait_that_cannot_begin_says_why(kit, config, message):
    kit.apply({"w": wait(**config)}, params={"pause": {"type": "string", "default": "soon"}})
    run = kit.run()
    assert kit.state(run) == "failed"
    assert message.removeprefix("config: ") in kit.nodes(run)["w"]["error"]["message"]


@pytest.mark.parametrize("act", ["cancel", "clear", "mark", "run timeout"])
def test_waits_can_be_stopped(kit, act):
    kit.apply({"w": wait(for_="1h")}, timeout="10m")
    run = kit.run()
    if act == "run timeout":
        kit.sql("UPDATE run SET timeout_at = clock_timestamp()")
    elif act == "mark":
        kit.mark(run, "w", "success")
    else:
        getattr(kit, act)(run)
    kit.settle()
    attempts, state = {
        "cancel": ([(1, "cancelled")], "cancelled"),
        "run timeout": ([(1, "cancelled")], "failed"),
        "mark": ([(1, "cancelled")], "success"),
        "clear": ([(1, "cancelled"), (2, "deferred")], "running"),
    }[act]
    assert kit.attempts(run, "w") == attempts
    assert kit.state(run) == state


def test_a_dead_scheduler_loses_no_wait(kit):
    kit.apply({"w": wait(for_="1h"), "p": {}})
    kit.stub.script("p", defer(MINUTE), succeed())
    run = kit.run()
    kit.sql("UPDATE scheduler SET beat_at = beat_at - interval '1 hour'")
    Recovery(kit.own, Identity(), lambda: None).work()
    assert kit.states(run) == {"w": "deferred", "p": "deferred"}
    assert kit.row("SELECT sum(losses) FROM node_run")[0] == 0
    kit.sql("UPDATE scheduler SET state = 'alive', beat_at = clock_timestamp()")
    kit.pass_time(3600)
    assert kit.state(run) == "success"
    assert kit.attempts(run, "w") == [(1, "success")]
    assert kit.attempts(run, "p") == [(1, "success")]


def test_a_scheduler_that_dies_while_it_decides_holds_a_wait_up_only_for_its_lease(kit, shared_engine, tmp_path):
    from agentflow.db.queries.gates import lease_gates

    kit.apply({"w": wait(for_="10s")})
    run = kit.run()
    kit.sql("UPDATE node_run SET resume_at = clock_timestamp()")
    taken = kit.call(lease_gates, me=kit.identity.id, reserved_only=False)
    assert [gate.waiting["awaited"] for gate in taken] == [None]
    other = another(shared_engine, tmp_path)
    try:
        other.settle()
        assert kit.states(run) == {"w": "deferred"}
        other.pass_time(31)
        assert kit.state(run) == "success"
    finally:
        other.close()


def test_two_schedulers_end_each_wait_once(kit, shared_engine, tmp_path):
    kit.apply({"w": wait(for_="10s", node={"for_each": list(range(40))})})
    run = kit.run()
    other = another(shared_engine, tmp_path)
    try:
        kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE resume_key = 'wait'")
        kit.sql(
            """UPDATE node_run SET resume_state = CAST(CAST(resume_state AS jsonb) || '{"due": 0}' AS json)
            WHERE resume_key = 'wait'"""
        )
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one: one.gates.work(), [kit, other]))
        kit.settle()
        assert kit.state(run) == "success"
        assert kit.rows("SELECT state, count(*) FROM attempt GROUP BY state") == [("success", 40)]
    finally:
        other.close()


# -- waits for runs -------------------------------------------------------------------------------------------------


def apply_pair(kit, **run):
    kit.apply({"work": {}}, "ingest")
    kit.apply({"w": wait(run=run or {"workflow": "ingest"})}, "report")


DATE = datetime(2026, 5, 1, tzinfo=UTC)


def test_a_wait_for_a_run_is_told_of_its_end(kit):
    kit.apply({"work": {}}, "ingest")
    kit.apply({"w": wait(run="{{ params.id }}")}, "report", params={"id": {"type": "string"}})
    kit.stub.hold("work")
    awaited = kit.run("ingest")
    run = kit.run("report", {"id": awaited})
    assert kit.states(run) == {"w": "deferred"}
    assert held(kit) == (1, 1, 1)  # the other run's
    assert 60 < resume_in(kit, run, "w") <= 300
    kit.stub.release("work")
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.rows("SELECT * FROM run_waiter") == []


def test_a_wait_for_a_run_that_has_ended_is_over(kit):
    kit.apply({"work": {}}, "ingest")
    kit.apply({"w": wait(run="{{ params.id }}")}, "report", params={"id": {"type": "string"}})
    run = kit.run("report", {"id": kit.run("ingest")})
    assert kit.state(run) == "success"


def test_a_run_that_does_not_exist_yet_is_waited_for_by_its_date(kit):
    apply_pair(kit)
    run = kit.run("report", logical_date=DATE)
    assert kit.states(run) == {"w": "deferred"}
    kit.run("ingest", logical_date=DATE - timedelta(days=1))
    assert kit.states(run) == {"w": "deferred"}
    kit.run("ingest", logical_date=DATE)
    assert kit.state(run) == "success"


@pytest.mark.parametrize(
    ("states", "state", "message"),
    [
        (["success"], "failed", "the run of `ingest` for 2026-05-01T00:00:00+00:00 ended failed, not success"),
        (["success", "cancelled"], "failed", "ended failed, not success or cancelled"),
        (["success", "failed"], "success", None),
    ],
)
def test_another_end_than_those_waited_for_fails_the_node(kit, states, state, message):
    apply_pair(kit, workflow="ingest", states=states, logical_date="2026-05-01")
    kit.stub.script("work", fail())
    run = kit.run("report")
    kit.run("ingest", logical_date=DATE)
    assert kit.state(run) == state
    error = kit.nodes(run)["w"]["error"]
    assert (error is None) if message is None else (message in error["message"])


def test_an_end_between_the_look_and_its_note_is_not_missed(kit):
    """The look found the run still going; it ends, and its end is told, before that look is stored."""
    from scheduler.gates import store
    from scheduler.waits import decide_waits

    apply_pair(kit)
    kit.stub.hold("work")
    kit.run("ingest", logical_date=DATE)
    run = kit.run("report", logical_date=DATE)
    kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE resume_key = 'wait'")
    from agentflow.db.queries.gates import lease_gates

    gates = kit.call(lease_gates, me=kit.identity.id, reserved_only=False)
    looked = decide_waits(kit.own, gates)
    assert [one.outcome for one in looked] == [None]
    kit.stub.release("work")
    kit.tick()
    kit.ends.work()
    kit.call(store, results=[], ended=[], waits=looked)
    kit.settle()
    assert kit.state(run) == "success"


def test_an_end_that_nobody_told_is_found_by_the_safety_look(kit):
    apply_pair(kit)
    run = kit.run("report", logical_date=DATE)
    kit.sql("DELETE FROM run_waiter")
    kit.run("ingest", logical_date=DATE)
    assert kit.states(run) == {"w": "deferred"}
    kit.pass_time(300)
    assert kit.state(run) == "success"


def test_a_wait_for_a_run_gives_up_after_a_week(kit):
    apply_pair(kit)
    run = kit.run("report", logical_date=DATE)
    kit.pass_time(6 * DAY)
    assert kit.states(run) == {"w": "deferred"}
    kit.pass_time(DAY)
    message = "gave up after 7d: the run of `ingest` for 2026-05-01T00:00:00+00:00 has not ended"
    assert kit.nodes(run)["w"]["error"] == {"type": "Timeout", "message": message}


def test_a_cleared_run_is_waited_for_until_it_ends_again(kit):
    apply_pair(kit)
    kit.stub.script("work", fail(), succeed())
    kit.stub.hold("work")
    awaited = kit.run("ingest", logical_date=DATE)
    run = kit.run("report", logical_date=DATE)
    kit.stub.release("work", fail())
    kit.stub.hold("work")
    kit.tick()
    kit.clear(awaited)  # before anybody was told
    kit.settle()
    assert kit.states(run) == {"w": "deferred"}
    kit.stub.release("work", succeed())
    kit.settle()
    assert kit.state(run) == "success"


def test_waits_that_were_stopped_leave_nothing_behind(kit):
    apply_pair(kit)
    run = kit.run("report", logical_date=DATE)
    other = kit.run("report", logical_date=DATE + timedelta(days=1))
    kit.cancel(run)
    assert sweep_waiters(kit.own) == 1
    kit.run("ingest", logical_date=DATE + timedelta(days=1))
    assert kit.state(other) == "success"


# -- cost -----------------------------------------------------------------------------------------------------------


COPY = """
INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up, attempt,
  resume_at, resume_key, resume_state)
SELECT run_id, node_no, i, version_id, group_id, state, priority, pool_slots, n_up, attempt, resume_at, resume_key,
  resume_state
FROM node_run, generate_series(0, 9999) AS i WHERE map_index = -1 AND resume_key = :key
"""


@pytest.mark.parametrize("key", ["wait", "turn"])
def test_ten_thousand_waits_cost_nothing_until_they_are_due(kit, key):
    kit.apply({"w": wait(for_="1h") if key == "wait" else {}})
    kit.stub.script("w", defer(3600))
    run = kit.run()
    kit.sql(COPY, key=key)
    kit.sql("ANALYZE node_run")
    read = """SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(oid)), 0)::bigint FROM pg_class
        WHERE relname ~ '^node_run_' AND relkind IN ('r', 'i')"""
    counted = []

    def count(connection):
        cursor = connection.connection.driver_connection.cursor()
        counted.append(cursor.execute(read).fetchone()[0])
        cursor.execute("SELECT pg_stat_force_next_flush()")

    event.listen(kit.own, "commit", count)
    try:
        for _ in range(7):  # prepared by then, and on the plan that stays
            counted.clear()
            kit.tick()
            kit.gates.work()
    finally:
        event.remove(kit.own, "commit", count)
    assert len(counted) > 1
    assert sum(counted) < 100
    kit.sql("DELETE FROM node_run WHERE map_index >= 0")
    kit.cancel(run)


def test_waits_that_are_due_together_end_in_few_statements(kit):
    kit.apply({"w": wait(for_="1h", node={"for_each": list(range(600))})})
    statements = []

    def count(*call):
        statements.append(call[2])

    event.listen(kit.own, "before_cursor_execute", count)
    try:
        run = kit.run()
        kit.pass_time(3600)
    finally:
        event.remove(kit.own, "before_cursor_execute", count)
    assert kit.state(run) == "success"
    assert len(statements) < 300

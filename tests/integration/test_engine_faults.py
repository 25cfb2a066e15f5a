"""Faults of parts: a broken version, executor or answer costs its own attempts, never the loop or anything else."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentflow.db.engine import make_engine
from executors.stub import succeed
from scheduler import gates as gates_module
from scheduler import loop as loop_module
from scheduler.evaluator import Evaluator, EvaluatorUnavailable
from scheduler.identity import LEASE, Identity, register
from scheduler.recovery import PATIENCE, Recovery
from tests.engine_kit import branch


def test_a_version_that_cannot_be_read_fails_its_own_nodes_only(kit):
    kit.apply({"a": {}}, name="sick")
    kit.apply({"a": {}}, name="well")
    kit.sql(
        """UPDATE workflow_version SET spec = '{"name": "sick", "nodes": 7}'
        WHERE workflow_id = (SELECT id FROM workflow WHERE name = 'sick')"""
    )
    sick, well = kit.create("sick"), kit.create("well")
    kit.settle()
    assert kit.attempts(sick, "a") == [(1, "failed")]
    assert (kit.state(sick), kit.state(well)) == ("failed", "success")
    (error,) = kit.row("SELECT error FROM attempt WHERE state = 'failed'")
    assert error["message"].startswith("the attempt could not be prepared")


def test_a_version_that_cannot_be_read_keeps_no_other_when_from_its_evaluation(kit):
    kit.apply({"a": {"when": "{{ true }}"}}, name="sick")
    kit.apply({"a": {"when": "{{ true }}"}}, name="well")
    kit.sql(
        """UPDATE workflow_version SET spec = '{"name": "sick", "nodes": 7}'
        WHERE workflow_id = (SELECT id FROM workflow WHERE name = 'sick')"""
    )
    sick, well = kit.create("sick"), kit.create("well")
    kit.settle()
    assert (kit.state(sick), kit.state(well)) == ("failed", "success")
    (error,) = kit.row("SELECT error FROM node_run WHERE state = 'failed'")
    assert error["message"].startswith("`when` could not be prepared")


def test_a_sub_run_whose_version_cannot_be_read_keeps_no_other_from_its_end(kit):
    for name in ("sick", "well"):
        kit.apply({"a": {}}, f"inner-{name}", outputs={"a": "{{ nodes.a.output }}"})
        kit.apply({"s": {"type": "workflow", "config": {"name": f"inner-{name}"}}}, name)
    kit.stub.hold("a")
    sick, well = kit.run("sick"), kit.run("well")
    kit.sql(
        """UPDATE workflow_version SET spec = '{"name": "inner-sick", "nodes": 7}'
        WHERE workflow_id = (SELECT id FROM workflow WHERE name = 'inner-sick')"""
    )
    kit.stub.release("a")
    kit.settle()
    assert (kit.state(sick), kit.state(well)) == ("failed", "success")
    assert kit.nodes(sick)["s"]["error"]["message"].startswith("sub-run: ")
    kit.check_books()


def test_a_decision_that_cannot_be_stored_fails_its_own_node_and_holds_up_no_other(kit, monkeypatch):
    kit.apply({"x": {}}, "leaf")
    kit.apply({"m": {"for_each": [1]}, "s": {"type": "workflow", "config": {"name": "leaf"}}}, "sick")
    kit.apply({"m": {"for_each": [1, 2]}, "s": {"type": "workflow", "config": {"name": "leaf"}}}, "well")
    expand, finish = gates_module.expand, gates_module.finish_round
    sick, well = kit.create("sick"), kit.create("well")

    def refuse(one, run_id):
        if str(run_id) == sick:
            raise ValueError("no\nmore")
        return one

    monkeypatch.setattr(gates_module, "expand", lambda c, run, *rest: refuse(expand, run)(c, run, *rest))
    monkeypatch.setattr(
        gates_module,
        "finish_round",
        lambda c, s, one: (finish if one.final else refuse(finish, one.gate.run_id))(c, s, one),
    )
    kit.settle()
    assert (kit.state(sick), kit.state(well)) == ("failed", "success")
    assert {name: node["error"]["message"] for name, node in kit.nodes(sick).items()} == dict.fromkeys(
        ("m", "s"), "what was decided could not be stored: no"
    )
    kit.check_books()


SLOW = "{{ range(99999) | map('string') | map('replace', '1', 'x' * 9999) | map('wordcount') | sum > 0 }}"


def test_a_workflow_full_of_slow_expressions_lets_others_have_their_turn(kit, monkeypatch):
    kit.gates._evaluator = kit.gates._judge._evaluator = Evaluator(seconds=0.05)
    kit.gates.budget = 0.6
    kit.apply({"m": {"for_each": list(range(12)), "when": SLOW}}, "slow")
    kit.apply({"a": {"when": "{{ true }}"}}, "well")
    slow = kit.create("slow")
    kit.starter.work()
    kit.gates.work()
    well = kit.create("well")
    kit.starter.work()
    store, stored = gates_module.store, []

    def watch(connection, results, **others):
        stored.append([str(one.gate.run_id) for one in results])
        return store(connection, results=results, **others)

    monkeypatch.setattr(gates_module, "store", watch)
    kit.settle()
    assert well in stored[0]
    assert len(stored[0]) < 12
    assert [kit.state(run) for run in (slow, well)] == ["failed", "success"]
    kit.check_books()


class Refusal(Exception):
    """What Postgres says, by its code."""

    def __init__(self, sqlstate):
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


NO_EVALUATOR, NO_CONNECTION = EvaluatorUnavailable("no process"), PoolTimeout("QueuePool limit reached")


@pytest.mark.parametrize("error", [NO_EVALUATOR, NO_CONNECTION], ids=["evaluator", "pool"])
def test_what_the_machine_lacks_for_a_moment_fails_no_node(kit, monkeypatch, error):
    kit.apply({"a": {}}, "inner", outputs={"a": "{{ nodes.a.output }}"})
    kit.apply({"s": {"type": "workflow", "config": {"name": "inner"}}}, "outer")
    kit.apply({"a": {"when": "{{ true }}"}}, "gated")
    kit.apply({"w": {"type": "wait", "config": {"for": "1h"}}}, "waits")
    waits = kit.run("waits")
    kit.stub.hold("a")
    outer = kit.run("outer")
    kit.stub.release("a")
    kit.tick()
    kit.ends.work()  # the parent is told: its node is due
    gated = kit.create("gated")
    kit.starter.work()
    kit.sql(
        """UPDATE node_run SET resume_at = clock_timestamp(), resume_state = CAST(
          CAST(resume_state AS jsonb) || '{"due": 0}' AS json) WHERE resume_key = 'wait'"""
    )
    with monkeypatch.context() as patch:

        def refuse(*_arguments, **_keys):
            raise error

        patch.setattr(kit.gates._evaluator, "evaluate_many", refuse)
        for _ in range(2):
            with pytest.raises(type(error)):  # the service's thread then pauses, ever longer
                kit.gates.work()
        assert (kit.states(outer), kit.states(gated)) == ({"s": "deferred"}, {"a": "pending"})
        assert kit.states(waits) == {"w": "success" if error is NO_EVALUATOR else "deferred"}
    kit.settle()  # no lease has to run out
    assert [kit.state(run) for run in (outer, gated, waits)] == ["success"] * 3
    kit.check_books()


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (IntegrityError("", {}, Refusal("23514")), "failed"),
        (OperationalError("", {}, Refusal("54000")), "failed"),
        (ProgrammingError("", {}, Refusal("42501")), "pending"),
        (MemoryError(), "pending"),
    ],
    ids=["check", "limit", "right", "memory"],
)
@pytest.mark.parametrize("step", ["decide", "store"])
def test_what_is_refused_over_one_node_holds_up_no_other(kit, monkeypatch, step, error, state):
    for name in ("sick", "well"):
        kit.apply({"a": {"when": "{{ true }}"}}, name)
    sick, well = kit.create("sick"), kit.create("well")

    def refuse(runs):
        if sick in runs:
            raise error

    first, store_gates = kit.gates._judge._decide, gates_module.store_gates

    def decide(gates):
        refuse([str(gate.run_id) for gate in gates])
        return first(gates)

    def store(connection, results, now):
        refuse([str(one.gate.run_id) for one in results if one.state != "failed"])
        return store_gates(connection, results, now)

    if step == "decide":
        monkeypatch.setattr(kit.gates._judge, "_decide", decide)
    else:
        monkeypatch.setattr(gates_module, "store_gates", store)
    kit.settle()
    assert (kit.states(sick), kit.state(well)) == ({"a": state}, "success")
    monkeypatch.undo()
    kit.let_time_pass()
    assert kit.state(sick) == ("failed" if state == "failed" else "success")
    kit.check_books()


def test_all_questions_of_a_round_share_its_time(kit, monkeypatch):
    """Each gets half of what is left, so that none goes without; one by one, too, ends with it."""
    now, budgets, tried = 0.0, [], []
    judge = kit.gates._judge
    ask, first = kit.gates._evaluator.evaluate_many, judge._decide
    monkeypatch.setattr("scheduler.judging.time", SimpleNamespace(monotonic=lambda: now))

    def evaluate(requests, *, budget):
        nonlocal now
        budgets.append(budget)
        now += budget
        return ask(requests)

    monkeypatch.setattr(kit.gates._evaluator, "evaluate_many", evaluate)
    kit.apply({"b": {"when": "{{ true }}", **branch("z")}, "z": {"needs": ["b"]}})
    kit.gates.budget = 8.0
    assert kit.state(kit.run()) == "success"
    assert budgets == [4.0, 2.0]

    def decide(gates):
        nonlocal now
        tried.append(len(gates))
        now += 3.0
        if len(gates) > 1:
            raise ValueError
        return first(gates)

    monkeypatch.setattr(judge, "_decide", decide)
    kit.apply({name: {"when": "{{ true }}"} for name in "abcd"})
    kit.create()
    kit.starter.work()
    kit.gates.work()
    assert tried == [4, 1, 1, 2, 1, 1]
    kit.settle()
    kit.check_books()


def test_a_node_of_which_nothing_can_be_stored_is_left_and_holds_up_no_other(kit, monkeypatch, caplog):
    for name in ("sick", "well"):
        kit.apply({"a": {"when": "{{ true }}"}}, name)
    sick, well = kit.create("sick"), kit.create("well")
    stored = gates_module.store_gates

    def store(connection, results, now):
        if any(str(one.gate.run_id) == sick for one in results):
            raise ValueError
        return stored(connection, results, now)

    monkeypatch.setattr(gates_module, "store_gates", store)
    kit.settle()
    assert (kit.states(sick), kit.state(well)) == ({"a": "pending"}, "success")
    assert "decision_dropped" in caplog.messages
    monkeypatch.undo()
    kit.let_time_pass()
    assert kit.state(sick) == "success"


#: Values, and errors that quote them, which Postgres cannot store as they are.
UNSTORABLE = ["{{ ['a\\u0000b'] }}", "{{ ['a\\ud800b'] }}", "{{ {'a': 1}['\\u0000'] }}", "{{ 'a'['\\ud800'] }}"]


def with_expression(where, bad):
    """A node, and declared outputs, with an expression somewhere."""
    if where == "outputs":
        return {}, {"all": bad}
    if where == "params":
        return {"type": "workflow", "config": {"name": "leaf", "params": {"n": bad}}}, {}
    if where == "until":
        return {"type": "workflow", "config": {"name": "leaf"}, "repeat": {"until": bad, "max": 2}}, {}
    if where == "branch":
        return {"type": "branch", "config": {"cases": [{"when": bad, "to": ["z"]}]}}, {}
    return {where: bad}, {}


@pytest.mark.parametrize("bad", UNSTORABLE)
@pytest.mark.parametrize("where", ["when", "for_each", "until", "outputs", "params", "branch"])
def test_what_an_expression_gives_fails_its_own_node_and_holds_up_no_other(kit, where, bad):
    node, outputs = with_expression(where, bad)
    kit.apply({"w": {}}, "leaf", params={"n": {"default": 0}})
    kit.apply({"s": node, "z": {"needs": ["s"]}}, "inner", outputs=outputs)
    kit.apply({"s": {"type": "workflow", "config": {"name": "inner"}}}, "outer")
    kit.apply({"a": {"when": "{{ true }}"}}, "well")
    outer, well = kit.create("outer"), kit.create("well")
    kit.settle()
    assert (kit.state(outer), kit.state(well)) == ("failed", "success")
    assert kit.nodes(outer)["s"]["error"]["message"].isprintable()


def test_inputs_of_a_when_that_are_too_large_are_named_as_such(kit, monkeypatch):
    monkeypatch.setattr("scheduler.contexts.INPUT_MAX", 10)
    kit.stub.script("a", succeed("x" * 100))
    kit.apply({"a": {}, "b": {"needs": ["a"], "when": "{{ nodes.a.output == 'x' }}"}})
    run = kit.run()
    assert kit.states(run)["b"] == "failed"
    (error,) = kit.row("SELECT error FROM node_run WHERE state = 'failed'")
    assert error["type"] == "InputTooLarge"


def test_an_executor_that_raises_refuses_and_the_loss_budget_ends_it(kit, monkeypatch):
    def broken(_workloads):
        raise RuntimeError("no more room")

    monkeypatch.setattr(kit.stub, "submit", broken)
    kit.apply({"a": {}})
    run = kit.run()
    assert kit.attempts(run, "a") == [(number, "refused") for number in range(1, 7)]
    assert kit.state(run) == "failed"
    assert "no more room" in kit.nodes(run)["a"]["error"]["message"]


def test_a_claim_that_always_fails_ends_the_tick_instead_of_spinning(kit, monkeypatch):
    calls = []

    def broken(*_arguments):
        calls.append(1)
        raise ProgrammingError("", {}, Exception("no such function"))

    monkeypatch.setattr(kit.loop._claimer, "_take", broken)
    kit.apply({"a": {}})
    kit.create()
    kit.starter.work()
    with pytest.raises(ProgrammingError):  # the loop's thread then pauses, ever longer
        kit.tick()
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ProgrammingError("", {}, Exception("sick row")), ValueError()])
def test_a_result_whose_storing_always_fails_is_dropped_and_its_attempt_written_off(kit, monkeypatch, error):
    kit.apply({"a": {}, "b": {}})
    kit.stub.hold("a")
    run = kit.run()
    apply_events, broken = loop_module.apply_events, []

    def refuse_first_of_a(connection, events, losses=()):
        mine = [event for event in events if event.attempt_id.split("/")[1] == "0" and event.attempt_id.endswith("/1")]
        if mine:
            broken.extend(mine)
            raise error
        return apply_events(connection, events, losses)

    monkeypatch.setattr(loop_module, "apply_events", refuse_first_of_a)
    kit.stub.release("a", succeed(1))
    kit.tick()
    assert broken
    kit.loop._audit_at = 0.0  # the time of the next audit has come
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "lost"), (2, "success")]
    assert kit.state(run) == "success"


def test_an_attempt_without_an_owner_is_found_by_the_audit(kit):
    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    kit.loop._live.clear()  # as if the claim's commit had become visible only after the look that follows an error
    kit.tick()
    assert kit.attempts(run, "a") == [(1, "running")]
    kit.loop._audit_at = 0.0
    kit.tick()
    assert kit.attempts(run, "a")[0] == (1, "lost")


def test_a_full_disk_holds_results_back_and_turns_none_into_a_failure(kit, monkeypatch):
    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    apply_events, full = loop_module.apply_events, [True]

    class DiskFull(Exception):
        sqlstate = "53100"

    def store(connection, events, losses=()):
        if full and events:
            raise OperationalError("", {}, DiskFull("No space left on device"))
        return apply_events(connection, events, losses)

    monkeypatch.setattr(loop_module, "apply_events", store)
    kit.stub.release("a", succeed(1))
    with pytest.raises(OperationalError):
        kit.tick()
    full.clear()
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "success")]


def test_a_dead_scheduler_is_asked_to_begin_again_and_claims_nothing_meanwhile(kit):
    asked = []
    kit.loop._on_dead = lambda: asked.append(kit.identity.id)
    kit.apply({"a": {}})
    run = kit.create()
    kit.starter.work()
    kit.sql("UPDATE scheduler SET state = 'dead' WHERE id = :id", id=kit.identity.id)
    kit.tick()  # the claim finds out before any heartbeat
    kit.tick()
    assert asked == [kit.identity.id]
    assert kit.attempts(run, "a") == []


def test_news_about_a_former_life_says_nothing_about_this_one():
    identity = Identity()
    former = identity.id
    identity.declared_dead(former)
    identity.renew()
    identity.beaten(former, time.monotonic() + 1000)
    assert identity.lease() == 0
    sent = time.monotonic()
    identity.beaten(identity.id, sent)
    assert not identity.may_claim  # not before its executors are there
    identity.revive()
    identity.declared_dead(former)
    assert identity.may_claim
    assert identity.lease() == sent + LEASE


def test_after_an_outage_nobody_is_declared_dead_before_he_could_beat_again(kit, monkeypatch):
    recovery = Recovery(kit.engine, Identity(), lambda: None)
    kit.sql("UPDATE scheduler SET beat_at = clock_timestamp() - interval '9 s'")

    def down(*_arguments, **_keys):
        raise OperationalError("", {}, Exception("server closed the connection"))

    with monkeypatch.context() as broken:
        broken.setattr("scheduler.recovery.schedulers.mark_dead", down)
        with pytest.raises(OperationalError):
            recovery.work()
    recovery.work()
    assert kit.row("SELECT state FROM scheduler WHERE id = :id", id=kit.identity.id).state == "alive"
    recovery._judge_from -= PATIENCE
    recovery.work()
    assert kit.row("SELECT state FROM scheduler WHERE id = :id", id=kit.identity.id).state == "dead"


def test_a_scheduler_that_sleeps_in_a_transaction_gives_its_locks_back(database_url):
    """The test would take 5 s: what the server was told is enough to know."""
    engine = make_engine(database_url, keyed=True)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5s"
    engine.dispose()


def test_register_writes_the_row_that_others_judge_by(kit):
    identity = Identity()
    kit.call(register, identity=identity, settings=kit.settings)
    assert kit.row("SELECT state FROM scheduler WHERE id = :id", id=identity.id).state == "alive"
    assert identity.may_claim

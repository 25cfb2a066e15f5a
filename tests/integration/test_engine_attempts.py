"""What becomes of attempts: retries, losses, late and repeated results, answers of the database that were lost."""

from __future__ import annotations

import json

import pytest

from executors.stub import fail, lose, refuse, skip, succeed


# -- retries and losses --------------------------------------------------------------------------------------------------
def test_a_failure_is_retried_after_its_delay(kit):
    kit.apply({"a": {"retries": 2, "retry_delay": "1h"}, "b": {"needs": ["a"]}})
    kit.stub.script("a", fail("one"), fail("two"), succeed(3))

    run = kit.run()

    assert kit.states(run) == {"a": "retrying", "b": "pending"}
    assert kit.nodes(run)["a"]["error"]["message"] == "one"
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "failed")]  # not before its time
    kit.retry_now()
    kit.retry_now()
    assert kit.attempts(run, "a") == [(1, "failed"), (2, "failed"), (3, "success")]
    assert kit.state(run) == "success"
    assert kit.nodes(run)["a"]["output"] == 3


def test_the_wait_grows_with_each_failure_up_to_its_limit(kit):
    kit.apply({"a": {"retries": 4, "retry_delay": "10s", "retry_backoff": 3, "retry_max_delay": "80s"}})
    kit.stub.script("a", fail())
    run = kit.run()
    waits = []
    while kit.states(run)["a"] == "retrying":
        seconds = "SELECT extract(epoch FROM resume_at - clock_timestamp())::float AS left_over FROM node_run"
        waits.append(kit.row(seconds).left_over)
        kit.retry_now()
    assert waits == pytest.approx([10, 30, 80, 80], abs=5)
    assert kit.state(run) == "failed"
    assert [state for _, state in kit.attempts(run, "a")] == ["failed"] * 5


def test_retries_without_a_delay_follow_at_once(kit):
    kit.apply({"a": {"retries": 2, "retry_delay": "0s"}})
    kit.stub.script("a", fail(), fail(), succeed())
    assert kit.state(kit.run()) == "success"


def test_a_timeout_is_a_failure_and_uses_a_retry(kit):
    kit.apply({"a": {"retries": 1, "timeout": "7s"}})
    kit.stub.script("a", fail("over 7 s", kind="Timeout"))
    run = kit.run()
    assert kit.stub.submitted[0].limits.timeout == 7.0
    assert kit.finish(run) == "failed"
    assert kit.attempts(run, "a") == [(1, "failed"), (2, "failed")]
    assert kit.nodes(run)["a"]["error"]["type"] == "Timeout"


@pytest.mark.parametrize(("ending", "word"), [(lose(), "lost"), (refuse(), "refused")])
def test_five_losses_are_free_and_the_sixth_fails(kit, ending, word):
    kit.apply({"a": {"retries": 0}, "b": {"retries": 0}})
    kit.stub.script("a", *[ending] * 5, succeed())
    kit.stub.script("b", ending)
    run = kit.run()
    assert kit.states(run) == {"a": "success", "b": "failed"}
    assert [state for _, state in kit.attempts(run, "a")] == [word] * 5 + ["success"]
    assert [state for _, state in kit.attempts(run, "b")] == [word] * 6


def test_losses_do_not_use_retries_and_failures_do_not_use_losses(kit):
    kit.apply({"a": {"retries": 2, "retry_delay": "0s"}})
    kit.stub.script("a", lose(), fail(), lose(), lose(), fail(), lose(), lose(), succeed())
    run = kit.run()
    assert kit.state(run) == "success"
    assert [number for number, _ in kit.attempts(run, "a")] == list(range(1, 9))


def test_an_attempt_that_asks_to_be_skipped_succeeds_and_skips_its_node(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["a"], "trigger_rule": "none_failed"}})
    kit.stub.script("a", skip())
    run = kit.run()
    assert kit.states(run) == {"a": "skipped", "b": "skipped", "c": "success"}
    assert kit.attempts(run, "a") == [(1, "success")]


# -- late and repeated results -------------------------------------------------------------------------------------------
def test_a_result_with_a_wrong_token_is_refused_and_recorded(kit):
    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    workload = kit.stub.running[0]
    kit.inbox.emit(_finish(workload, token="0" * 32))
    kit.settle()
    assert kit.states(run) == {"a": "running"}
    assert len(kit.events(run, "refused")) == 1
    kit.stub.release("a", succeed("right"))
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "right"


def test_a_wrong_token_does_not_hide_the_right_result_of_the_same_batch(kit):
    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    workload = kit.stub.running[0]
    kit.stub.release("a", succeed("right"))
    kit.inbox.emit(_finish(workload, token="0" * 32))
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "right"
    assert len(kit.events(run, "refused")) == 1


def test_the_result_of_an_older_attempt_is_refused(kit):
    kit.apply({"a": {}})
    kit.stub.script("a", lose(), succeed("second"))
    run = kit.run()
    first = kit.stub.submitted[0]
    kit.inbox.emit(_finish(first, token=first.token))
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "second"
    (refused,) = kit.events(run, "refused")
    assert refused.attempt == 1
    assert refused.detail == {"reported": "success", "attempt_state": "lost"}


def test_the_same_result_again_changes_nothing(kit):
    kit.apply({"a": {"retries": 1}, "b": {"needs": ["a"]}})
    kit.stub.script("a", fail(), succeed(1))
    run = kit.run()
    kit.finish(run)
    before = kit.show(run), kit.row("SELECT event_seq FROM run").event_seq
    for event in list(kit.sent):
        kit.inbox.emit(event)
    kit.settle()
    assert (kit.show(run), kit.row("SELECT event_seq FROM run").event_seq) == before


def test_a_commit_that_was_not_acknowledged_is_applied_once(kit, monkeypatch):
    # Given a loop whose connection breaks after the commit of a's end, before the answer
    from sqlalchemy.exc import OperationalError

    from scheduler import loop as module

    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.stub.hold("a")
    run = kit.run()
    kit.stub.release("a", succeed(1))
    apply_events, failures = module.apply_events, []

    def commit_then_break(connection, events, losses=()):
        applied = apply_events(connection, events, losses)
        if not failures:
            failures.append(True)
            connection.connection.driver_connection.commit()
            raise OperationalError("", {}, Exception("server closed the connection"), connection_invalidated=True)
        return applied

    monkeypatch.setattr(module, "apply_events", commit_then_break)
    with pytest.raises(OperationalError):
        kit.tick()
    kit.loop._drop_connection()
    # When it goes on over a new one
    kit.settle()
    # Then nothing was done twice
    assert kit.state(run) == "success"
    assert kit.attempts(run, "a") == [(1, "success")]
    assert [event.state for event in kit.events(run, "node")].count("success") == 2
    assert kit.events(run, "refused") == []


def test_a_claim_whose_answer_was_lost_is_written_off_and_made_again(kit, monkeypatch):
    from sqlalchemy.exc import OperationalError

    kit.apply({"a": {}})
    run = kit.create()
    kit.starter.work()
    claim, failures = kit.loop._claimer.claim, []

    def commit_then_break(connection, *rest):
        claimed = claim(connection, *rest)
        if claimed.workloads and not failures:
            failures.append(True)
            connection.connection.driver_connection.commit()
            raise OperationalError("", {}, Exception("server closed the connection"), connection_invalidated=True)
        return claimed

    monkeypatch.setattr(kit.loop._claimer, "claim", commit_then_break)
    with pytest.raises(OperationalError):
        kit.tick()
    kit.loop._drop_connection()
    kit.loop._audit_at = 0.0  # as the loop's thread does after an error
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "lost"), (2, "success")]
    assert kit.started() == ["a"]


def _finish(workload, *, token):
    from agentflow.clock import utc_now
    from agentflow.workload import Finished, Outcome

    return Finished(workload.attempt_id, token, Outcome.SUCCESS, utc_now(), utc_now(), json.dumps("late"))


def test_only_errors_that_are_named_are_retried(kit):
    kit.apply(
        {
            "named": {"retries": 3, "retry_delay": "0s", "retry_on": ["Timeout"]},
            "other": {"retries": 3, "retry_delay": "0s", "retry_on": ["Timeout"]},
            "never": {"retries": 3, "retry_delay": "0s", "fail_on": ["ValueError"]},
            "lost": {"retry_on": [], "fail_on": ["Lost"]},
        }
    )
    kit.stub.script("named", fail(kind="Timeout"), succeed())
    kit.stub.script("other", fail(kind="ValueError"))
    kit.stub.script("never", fail(kind="KeyError"), fail(kind="ValueError"))
    kit.stub.script("lost", lose(), succeed())
    run = kit.run()
    assert kit.states(run) == {"named": "success", "other": "failed", "never": "failed", "lost": "success"}
    assert {node: row["attempt"] for node, row in kit.nodes(run).items()} == {
        "named": 2,
        "other": 1,
        "never": 2,
        "lost": 2,
    }

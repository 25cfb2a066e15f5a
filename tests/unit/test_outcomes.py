"""What an attempt's end means for its node run (SEMANTICS section 1), as tables."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.db.queries.attempts import LockedAttempt
from agentflow.states import ATTEMPT_FINAL, NODE_RUN_MOVES, AttemptState, NodeRunState
from agentflow.workload import Outcome
from scheduler.outcomes import LOSS_BUDGET, decide_outcome
from scheduler.retrying import retry_delay

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
RUNNING = LockedAttempt(
    key=(uuid.UUID(int=1), 0, -1, 1),
    version_id=1,
    attempt_state=AttemptState.RUNNING,
    token_hash=b"",
    scheduler_id=uuid.UUID(int=2),
    node_state=NodeRunState.RUNNING,
    current_attempt=1,
    failures=0,
    losses=0,
    node_id="a",
    type="noop",
    is_leaf=True,
    retries=0,
    retry_delay=10.0,
    retry_backoff=1.0,
    retry_max_delay=3600.0,
)


def attempt(**changes):
    return replace(RUNNING, **changes)


@pytest.mark.parametrize(
    ("outcome", "before", "node", "failures", "losses"),
    [
        (Outcome.SUCCESS, {}, "success", 0, 0),
        (Outcome.SUCCESS, {"failures": 2, "losses": 3}, "success", 2, 3),
        (Outcome.SKIPPED, {}, "skipped", 0, 0),
        (Outcome.CANCELLED, {}, "cancelled", 0, 0),
        (Outcome.FAILED, {}, "failed", 1, 0),
        (Outcome.FAILED, {"retries": 1}, "retrying", 1, 0),
        (Outcome.FAILED, {"retries": 1, "failures": 1}, "failed", 2, 0),
        (Outcome.FAILED, {"retries": 3, "failures": 2}, "retrying", 3, 0),
        (Outcome.FAILED, {"retries": 1, "losses": 5}, "retrying", 1, 5),  # losses use no retry
        (Outcome.FAILED, {"retries": 1, "retry_delay": 0.0}, "ready", 1, 0),
        (Outcome.LOST, {}, "ready", 0, 1),
        (Outcome.REFUSED, {}, "ready", 0, 1),
        (Outcome.RETURNED, {}, "ready", 0, 0),
        (Outcome.RETURNED, {"failures": 1, "losses": 5}, "ready", 1, 5),
        (Outcome.LOST, {"losses": 4}, "ready", 0, 5),
        (Outcome.LOST, {"losses": 5}, "failed", 0, 6),
        (Outcome.REFUSED, {"losses": 5}, "failed", 0, 6),
        (Outcome.LOST, {"retries": 9, "losses": 5}, "failed", 0, 6),  # retries do not pay for losses
        (Outcome.LOST, {"failures": 3, "retries": 3}, "ready", 3, 1),
    ],
)
def test_where_a_node_goes(outcome, before, node, failures, losses):
    step = decide_outcome(attempt(**before), outcome, run_stopping=False, now=NOW)
    assert (step.node_state, step.failures, step.losses) == (node, failures, losses)
    assert (step.resume_at is not None) == (node == "retrying")


@pytest.mark.parametrize(
    ("outcome", "node"),
    [
        (Outcome.SUCCESS, "success"),
        (Outcome.SKIPPED, "skipped"),
        (Outcome.CANCELLED, "cancelled"),
        (Outcome.FAILED, "failed"),
        (Outcome.LOST, "cancelled"),
        (Outcome.REFUSED, "cancelled"),
        (Outcome.RETURNED, "cancelled"),
    ],
)
def test_nothing_starts_again_in_a_run_that_is_stopping(outcome, node):
    step = decide_outcome(attempt(retries=9), outcome, run_stopping=True, now=NOW)
    assert step.node_state == node


@pytest.mark.parametrize(
    ("delay", "backoff", "most", "waits"),
    [
        (10, 1, 3600, [10, 10, 10]),
        (5, 2, 300, [5, 10, 20, 40, 80, 160, 300, 300]),
        (1, 3, 10, [1, 3, 9, 10]),
        (60, 2, 30, [30, 30]),
        (8, 0.5, 60, [8, 4, 2, 1]),
        (0, 2, 60, [0, 0]),
        (1, 1e6, 60, [1, 60, 60]),
    ],
)
def test_the_delay_before_the_next_attempt(delay, backoff, most, waits):
    policy = attempt(retry_delay=delay, retry_backoff=backoff, retry_max_delay=most)
    assert [retry_delay(policy, n).total_seconds() for n in range(1, len(waits) + 1)] == waits


def test_a_slow_backoff_reaches_its_maximum_too():
    policy = attempt(retry_delay=10.0, retry_backoff=1.01)
    assert retry_delay(policy, 100).total_seconds() == pytest.approx(10 * 1.01**99)
    assert retry_delay(policy, 1000) == timedelta(hours=1)


@given(
    failures=st.integers(1, 32_767),
    delay=st.floats(0, 1e9),
    backoff=st.floats(1e-6, 1e6),
    most=st.floats(0, 1e9),
)
def test_no_policy_overflows_or_exceeds_its_maximum(failures, delay, backoff, most):
    policy = attempt(retry_delay=delay, retry_backoff=backoff, retry_max_delay=most)
    assert timedelta(0) <= retry_delay(policy, failures) <= timedelta(seconds=most)


def test_the_wait_is_counted_from_the_end_of_the_failed_attempt():
    step = decide_outcome(attempt(retries=1, retry_delay=90.0), Outcome.FAILED, run_stopping=False, now=NOW)
    assert step.resume_at == NOW + timedelta(seconds=90)


@given(
    outcome=st.sampled_from(list(Outcome)),
    state=st.sampled_from([NodeRunState.QUEUED, NodeRunState.RUNNING]),
    failures=st.integers(0, 9),
    losses=st.integers(0, LOSS_BUDGET),
    retries=st.integers(0, 9),
    stopping=st.booleans(),
)
def test_every_step_is_a_move_of_the_state_machine(outcome, state, failures, losses, retries, stopping):
    before = attempt(node_state=state, failures=failures, losses=losses, retries=retries)
    step = decide_outcome(before, outcome, run_stopping=stopping, now=NOW)
    assert step.attempt_state in ATTEMPT_FINAL | {AttemptState.DEFERRED}
    # `skipped` by the node's own word is the one move that only an attempt makes.
    assert step.node_state in NODE_RUN_MOVES[state] | {NodeRunState.SKIPPED}

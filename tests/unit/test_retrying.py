"""Which errors are worth a retry, and how long it waits: tables and properties."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.db.queries.attempts import LockedAttempt
from agentflow.runner.errors import describe
from agentflow.runner.masking import Masker
from agentflow.states import AttemptState, NodeRunState
from agentflow.workload import ErrorInfo, Outcome
from scheduler.outcomes import decide_outcome
from scheduler.retrying import is_worth_a_retry, matches, retry_delay

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ATTEMPT = LockedAttempt(
    key=(uuid.UUID(int=1), 0, -1, 1), version_id=1, attempt_state=AttemptState.RUNNING, token_hash=b"",
    scheduler_id=uuid.UUID(int=2), node_state=NodeRunState.RUNNING, current_attempt=1, failures=0, losses=0, node_id="a",
    type="noop", is_leaf=True, retries=3, retry_delay=10.0, retry_backoff=2.0, retry_max_delay=60.0,
)  # fmt: skip

REFUSED = describe(ConnectionRefusedError("no"), Masker([]))
EXIT = ErrorInfo(type="ExitCode", message="exit code 75", exit_code=75)
TIMEOUT = ErrorInfo(type="Timeout", message="too slow")

MATCHES = [
    (REFUSED, ["ConnectionRefusedError"], True),
    (REFUSED, ["ConnectionError"], True),  # a base class
    (REFUSED, ["OSError"], True),
    (REFUSED, ["Exception"], False),  # says nothing
    (REFUSED, ["ValueError", "TimeoutError"], False),
    (REFUSED, ["builtins.ConnectionError"], True),
    (ErrorInfo(type="requests.exceptions.Timeout", message=""), ["Timeout"], True),
    (EXIT, ["75"], True),
    (EXIT, ["7"], False),
    (EXIT, ["ExitCode"], True),
    (TIMEOUT, ["Timeout"], True),
    (TIMEOUT, ["timeout"], False),
    (TIMEOUT, [], False),
    (None, ["Timeout"], False),
]


@pytest.mark.parametrize(("error", "rules", "result"), MATCHES)
def test_a_rule_names_a_type_a_base_class_or_an_exit_code(error, rules, result):
    assert matches(error, rules) is result


#: retry_on, fail_on, the error, whether it is retried.
POLICIES = [
    (None, None, TIMEOUT, True),
    (["Timeout"], None, TIMEOUT, True),
    (["Timeout"], None, EXIT, False),
    ([], None, TIMEOUT, False),
    (None, ["Timeout"], TIMEOUT, False),
    (None, ["Timeout"], EXIT, True),
    (["OSError"], ["ConnectionError"], REFUSED, False),  # fail_on wins
    (["ConnectionError"], ["OSError"], REFUSED, False),
    (["ExitCode"], ["1"], EXIT, True),
    (None, None, None, True),
    (["Timeout"], None, None, False),
]


@pytest.mark.parametrize(("retry_on", "fail_on", "error", "retried"), POLICIES)
def test_fail_on_wins_over_retry_on(retry_on, fail_on, error, retried):
    attempt = replace(ATTEMPT, retry_on=retry_on, fail_on=fail_on)
    assert is_worth_a_retry(attempt, error) is retried
    step = decide_outcome(attempt, Outcome.FAILED, error=error, run_stopping=False, now=NOW)
    assert step.node_state == ("retrying" if retried else "failed")


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED])
def test_losses_ask_no_policy(outcome):
    attempt = replace(ATTEMPT, retries=0, retry_on=[], fail_on=["Lost"])
    error = ErrorInfo(type="Lost", message="gone")
    step = decide_outcome(attempt, outcome, error=error, run_stopping=False, now=NOW)
    assert (step.node_state, step.failures, step.losses) == ("ready", 0, 1)


def test_the_base_classes_are_not_shown():
    assert REFUSED.bases == ("ConnectionError", "OSError")
    assert set(REFUSED.as_document()) == {"type", "message"}


@given(
    jitter=st.floats(0, 1),
    failures=st.integers(1, 500),
    delay=st.floats(0.001, 1e5),
    backoff=st.floats(1, 100),
    most=st.floats(0.001, 1e5),
    run=st.uuids(),
)
def test_jitter_only_shortens_the_wait_and_never_changes(jitter, failures, delay, backoff, most, run):
    attempt = replace(
        ATTEMPT,
        key=(run, 1, -1, 1),
        retry_delay=delay,
        retry_backoff=backoff,
        retry_max_delay=most,
        retry_jitter=jitter,
    )
    full = retry_delay(replace(attempt, retry_jitter=0.0), failures)
    found = retry_delay(attempt, failures)
    assert found == retry_delay(attempt, failures)
    assert full * (1 - jitter) - timedelta(microseconds=1) <= found <= full


def test_jitter_spreads_the_retries_of_different_node_runs():
    delays = {
        retry_delay(replace(ATTEMPT, key=(uuid.UUID(int=1), 0, index, 1), retry_jitter=1.0), 1) for index in range(100)
    }
    assert len(delays) == 100
    assert min(delays) < timedelta(seconds=2)
    assert max(delays) > timedelta(seconds=8)

"""What an attempt's end means for its node run: pure, tested as a table (SEMANTICS section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from agentflow.db.queries.attempts import LockedAttempt
from agentflow.states import AttemptState, NodeRunState
from agentflow.workload import ErrorInfo, Outcome
from scheduler.retrying import is_worth_a_retry, retry_delay

MIN_DEFERRAL = 1.0  #: Seconds; a node that asks for another turn at once would keep the scheduler busy.
LOSS_BUDGET = 5  #: Lost attempts per node run before it fails; they never use the user's retries.
ATTEMPT_STATES = {
    Outcome.SUCCESS: AttemptState.SUCCESS,
    Outcome.SKIPPED: AttemptState.SUCCESS,
    Outcome.FAILED: AttemptState.FAILED,
    Outcome.CANCELLED: AttemptState.CANCELLED,
    Outcome.LOST: AttemptState.LOST,
    Outcome.REFUSED: AttemptState.REFUSED,
    Outcome.RETURNED: AttemptState.REFUSED,
    Outcome.DEFERRED: AttemptState.DEFERRED,
}


@dataclass(frozen=True, slots=True)
class NextStep:
    """Where attempt and node run go, and the budgets that are left used."""

    attempt_state: AttemptState
    node_state: NodeRunState
    failures: int
    losses: int
    resume_at: datetime | None = None


def decide_outcome(
    attempt: LockedAttempt,
    outcome: Outcome,
    *,
    error: ErrorInfo | None = None,
    after: float = 0.0,
    run_stopping: bool,
    now: datetime,
) -> NextStep:
    """What follows from an accepted result; `after`: the seconds for which it wants to be deferred."""
    state = ATTEMPT_STATES[outcome]
    failures, losses = attempt.failures, attempt.losses
    if outcome is Outcome.SUCCESS:
        return NextStep(state, NodeRunState.SUCCESS, failures, losses)
    if outcome is Outcome.SKIPPED:
        return NextStep(state, NodeRunState.SKIPPED, failures, losses)
    if outcome is Outcome.DEFERRED:
        if run_stopping:
            return NextStep(AttemptState.CANCELLED, NodeRunState.CANCELLED, failures, losses)
        due = now + timedelta(seconds=max(MIN_DEFERRAL, after))
        return NextStep(state, NodeRunState.DEFERRED, failures, losses, resume_at=due)
    if outcome in (Outcome.LOST, Outcome.REFUSED, Outcome.RETURNED):
        losses += outcome is not Outcome.RETURNED
        if run_stopping:
            return NextStep(state, NodeRunState.CANCELLED, failures, losses)
        if losses > LOSS_BUDGET:
            return NextStep(state, NodeRunState.FAILED, failures, losses)
        return NextStep(state, NodeRunState.READY, failures, losses)
    if outcome is Outcome.CANCELLED:
        return NextStep(state, NodeRunState.CANCELLED, failures, losses)
    failures += 1
    if run_stopping or failures > attempt.retries or not is_worth_a_retry(attempt, error):
        return NextStep(state, NodeRunState.FAILED, failures, losses)
    delay = retry_delay(attempt, failures)
    if delay <= timedelta(0):
        return NextStep(state, NodeRunState.READY, failures, losses)
    return NextStep(state, NodeRunState.RETRYING, failures, losses, resume_at=now + delay)

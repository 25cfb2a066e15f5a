"""Executor events -> the database: one transaction a batch, fenced, idempotent.

Order of locks: runs by id, then node runs and attempts by key. A batch that was applied but whose commit was not
acknowledged (the connection broke) is applied again and changes nothing: its attempts are final with the same token.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection

from agentflow.db.queries.attempts import (
    AttemptKey,
    LockedAttempt,
    lock_attempts,
    parse_attempt_id,
    token_hash,
)
from agentflow.db.queries.books import AttemptWrite, Event, NodeWrite
from agentflow.db.queries.deferrals import Deferred, write_deferrals
from agentflow.db.queries.locks import LockedRun
from agentflow.db.queries.settle import FinalNode, Settlement
from agentflow.states import ATTEMPT_FINAL, ATTEMPT_OPEN, NODE_RUN_FINAL, AttemptState, NodeRunState
from agentflow.workload import Deferral, ErrorInfo, Finished, Outcome, Started, StoredOutput
from scheduler.outcomes import ATTEMPT_STATES, NextStep, decide_outcome


@dataclass(frozen=True, slots=True)
class Loss:
    """An attempt of a dead scheduler, written off by another: fenced by the owner's id instead of the token."""

    key: AttemptKey
    owner: uuid.UUID
    reason: str


@dataclass(slots=True)
class Applied:
    """What a batch did, for the loop."""

    ready: int = 0
    due: int = 0
    next_resume: datetime | None = None
    ended: list[uuid.UUID] = field(default_factory=list)
    ended_workflows: set[int] = field(default_factory=set)  #: Theirs.
    finals: Mapping[NodeRunState, int] = field(default_factory=dict)
    refused: int = 0


@dataclass(slots=True)
class _Batch:
    settlement: Settlement
    finals: list[FinalNode] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)
    applied: Applied = field(default_factory=Applied)

    def note_resume(self, at: datetime) -> None:
        """Something of this batch is due then."""
        self.applied.next_resume = min(at, self.applied.next_resume or at)


def apply_events(connection: Connection, events: Sequence[Started | Finished], losses: Sequence[Loss] = ()) -> Applied:
    """Store the starts and ends of attempts and everything that follows from them."""
    # A Finished replaces its Started; a report with another token is another's and must not replace either.
    keyed = {(parse_attempt_id(event.attempt_id), event.token): event for event in events}
    locked = lock_attempts(connection, [*{key for key, _ in keyed}, *(loss.key for loss in losses)])
    if locked.now is None:  # the runs were deleted meanwhile
        return Applied()
    runs, attempts = locked.runs, locked.attempts
    batch = _Batch(Settlement(connection, runs, locked.now))
    for (key, _), event in keyed.items():
        if key in attempts:
            _apply(batch, attempts[key], runs[key[0]], event)
    for loss in losses:
        if loss.key in attempts:
            _lose(batch, attempts[loss.key], runs[loss.key[0]], loss)
    write_deferrals(connection, batch.deferred, locked.now)
    batch.settlement.settle(batch.finals)
    batch.settlement.write(wake=batch.applied.ready > 0)
    applied = batch.applied
    applied.ready += batch.settlement.made_ready
    applied.due += batch.settlement.made_due + len(batch.settlement.unfinished)
    applied.ended = batch.settlement.ended
    applied.ended_workflows = {runs[run_id].workflow_id for run_id in applied.ended}
    applied.finals = batch.settlement.finals
    return applied


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended that no executor held: a sub-run's, a wait's."""

    key: AttemptKey
    outcome: Outcome
    output: str | StoredOutput | None = None  #: JSON text or where that is, with a success.
    error: ErrorInfo | None = None
    retry: bool = True  #: Whether the node's retries apply; not to errors of the scheduler's own expressions.


def finish_attempts(connection: Connection, settlement: Settlement, ends: Sequence[AttemptEnd]) -> list[FinalNode]:
    """End attempts that no executor holds. The caller holds the runs' locks and decides whose turn it is.

    Args:
        connection: In a transaction.
        settlement: Collects what follows; the caller settles the node runs that are returned, and writes.
        ends: Of attempts of the settlement's runs.

    Returns:
        The node runs that are final now.
    """
    if not ends:
        return []
    attempts = lock_attempts(connection, [end.key for end in ends]).attempts
    batch = _Batch(settlement)
    for end in ends:
        attempt = attempts.get(end.key)
        if attempt is not None and _is_current(attempt):
            _end(batch, attempt, end)
    return batch.finals


def _end(batch: _Batch, attempt: LockedAttempt, end: AttemptEnd) -> None:
    settlement = batch.settlement
    stopping = settlement.runs[end.key[0]].stopping
    step = decide_outcome(attempt, end.outcome, error=end.error, run_stopping=stopping, now=settlement.now)
    if end.outcome is Outcome.FAILED and not end.retry:
        step = replace(step, node_state=NodeRunState.FAILED, resume_at=None)
    if step.node_state is NodeRunState.READY:  # never claimed: the evaluator's side starts it again
        step = replace(step, node_state=NodeRunState.PENDING, resume_at=settlement.now)
        settlement.made_due += 1
    _finish(batch, attempt, step, None, settlement.now, end.output, end.error.as_document() if end.error else None)


def _apply(batch: _Batch, attempt: LockedAttempt, run: LockedRun, event: Started | Finished) -> None:
    if attempt.token_hash != token_hash(event.token) or not _is_held(attempt):
        if not _is_repeat(attempt, event):
            _refuse(batch, attempt, event)
        return
    if isinstance(event, Started):
        _start(batch, attempt, event)
        return
    deferral = event.deferral or Deferral(after=0.0)
    step = decide_outcome(
        attempt,
        event.outcome,
        error=event.error,
        after=deferral.after,
        run_stopping=run.stopping,
        now=batch.settlement.now,
    )
    if step.node_state is NodeRunState.DEFERRED:
        _defer(batch, attempt, step, event.started_at, deferral)
        return
    error = event.error.as_document() if event.error else None
    output = event.stored or event.output
    _finish(batch, attempt, step, event.started_at, event.finished_at, output, error)


def _is_current(attempt: LockedAttempt) -> bool:
    return attempt.attempt_state not in ATTEMPT_FINAL and attempt.key[3] == attempt.current_attempt


def _is_held(attempt: LockedAttempt) -> bool:
    """Whether an executor may still say something about it; one that is deferred is nobody's."""
    return attempt.attempt_state in ATTEMPT_OPEN and attempt.key[3] == attempt.current_attempt


def _is_repeat(attempt: LockedAttempt, event: Started | Finished) -> bool:
    """The same report again, after a commit that was not acknowledged: nothing to do, nothing to refuse."""
    if attempt.token_hash != token_hash(event.token):
        return False
    return isinstance(event, Started) or attempt.attempt_state == ATTEMPT_STATES[event.outcome]


def _refuse(batch: _Batch, attempt: LockedAttempt, event: Started | Finished) -> None:
    batch.applied.refused += 1
    said = event.outcome.value if isinstance(event, Finished) else "started"
    run_id, node_no, map_index, number = attempt.key
    detail = {"reported": said, "attempt_state": attempt.attempt_state.value}
    batch.settlement.record(Event(run_id, "refused", node_no, map_index, number, None, detail))


def _start(batch: _Batch, attempt: LockedAttempt, event: Started) -> None:
    if attempt.attempt_state is AttemptState.RUNNING:
        return
    run_id, node_no, map_index, number = attempt.key
    batch.settlement.put(
        NodeWrite((run_id, node_no, map_index), NodeRunState.RUNNING),
        AttemptWrite(number, AttemptState.RUNNING, event.at, None, attempt.failures, attempt.losses),
    )
    batch.settlement.record(Event(run_id, "node", node_no, map_index, number, NodeRunState.RUNNING))


def _lose(batch: _Batch, attempt: LockedAttempt, run: LockedRun, loss: Loss) -> None:
    if attempt.scheduler_id != loss.owner or not _is_held(attempt):
        return
    step = decide_outcome(attempt, Outcome.LOST, run_stopping=run.stopping, now=batch.settlement.now)
    _finish(batch, attempt, step, None, batch.settlement.now, None, {"type": "Lost", "message": loss.reason})


def _defer(
    batch: _Batch, attempt: LockedAttempt, step: NextStep, started_at: datetime | None, deferral: Deferral
) -> None:
    assert step.resume_at is not None
    run_id, node_no, map_index, number = attempt.key
    batch.deferred.append(Deferred(attempt.key, started_at, step.resume_at, deferral))
    detail = {"until": step.resume_at.isoformat()}
    batch.settlement.record(Event(run_id, "node", node_no, map_index, number, NodeRunState.DEFERRED, detail))
    batch.note_resume(step.resume_at)


def _finish(
    batch: _Batch,
    attempt: LockedAttempt,
    step: NextStep,
    started_at: datetime | None,
    finished_at: datetime,
    output: str | StoredOutput | None,
    error: dict[str, object] | None,
) -> None:
    run_id, node_no, map_index, number = attempt.key
    ready, final = step.node_state is NodeRunState.READY, step.node_state in NODE_RUN_FINAL
    batch.settlement.put(
        NodeWrite(
            (run_id, node_no, map_index),
            step.node_state,
            finished_at=finished_at if final else None,
            resume_at=step.resume_at,
            ready_at=batch.settlement.now if ready else None,
        ),
        AttemptWrite(
            number,
            step.attempt_state,
            started_at,
            finished_at,
            step.failures,
            step.losses,
            output=output if step.node_state is NodeRunState.SUCCESS else None,
            error=json.dumps(error) if error else None,
        ),
    )
    if final:
        batch.finals.append(
            FinalNode(run_id, attempt.version_id, node_no, step.node_state, attempt.is_leaf, map_index, number)
        )
        return
    detail = {"ended": step.attempt_state.value}
    batch.settlement.record(Event(run_id, "node", node_no, map_index, number, step.node_state, detail))
    batch.applied.ready += ready
    if step.resume_at is not None:
        batch.note_resume(step.resume_at)

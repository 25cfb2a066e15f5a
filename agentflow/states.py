"""The states of DESIGN section 3 and the moves between them: the one home of the state machine.

CHECK constraints and the SQL of `agentflow.db` are built from these names; `docs/state-machine.md` draws them.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"  #: Created; waits for max_active_runs, a pause, or a scheduler.
    RUNNING = "running"  #: Its node runs exist and at least one is open.
    SUCCESS = "success"  #: Every leaf ended well.
    FAILED = "failed"  #: A leaf failed, or the run's timeout struck.
    CANCELLED = "cancelled"  #: Somebody cancelled it.


class NodeRunState(StrEnum):
    """Where a node run stands."""

    PENDING = "pending"  #: Waits for upstreams, or for its `when` to be evaluated.
    READY = "ready"  #: May be claimed.
    QUEUED = "queued"  #: Claimed and handed to an executor.
    RUNNING = "running"  #: An attempt reported its start.
    DEFERRED = "deferred"  #: Waits without a slot: time, sub-run, approval, event.
    RETRYING = "retrying"  #: Waits for its next attempt.
    SUCCESS = "success"  #: Its last attempt's result was accepted.
    FAILED = "failed"  #: No attempts are left.
    SKIPPED = "skipped"  #: Its rule, `when` or a branch said no.
    UPSTREAM_FAILED = "upstream_failed"  #: Its rule became impossible because an upstream failed.
    CANCELLED = "cancelled"  #: Stopped by request or by the run's timeout.


class AttemptState(StrEnum):
    """Where one try stands."""

    QUEUED = "queued"  #: Written by the claim.
    LAUNCHING = "launching"  #: The executor is making its process or pod.
    RUNNING = "running"  #: The runner reported the start.
    DEFERRED = "deferred"  #: Waits for its next turn; nobody holds it.
    SUCCESS = "success"  #: Result accepted.
    FAILED = "failed"  #: Exception, exit code, signal, timeout, out of memory.
    CANCELLED = "cancelled"  #: Killed by request.
    LOST = "lost"  #: Scheduler, runner, node or pod gone.
    REFUSED = "refused"  #: The executor would not take it, or gave it back unbegun.


RUN_FINAL = frozenset({RunState.SUCCESS, RunState.FAILED, RunState.CANCELLED})
NODE_RUN_FINAL = frozenset(
    {
        NodeRunState.SUCCESS,
        NodeRunState.FAILED,
        NodeRunState.SKIPPED,
        NodeRunState.UPSTREAM_FAILED,
        NodeRunState.CANCELLED,
    }
)
ATTEMPT_FINAL = frozenset(
    {AttemptState.SUCCESS, AttemptState.FAILED, AttemptState.CANCELLED, AttemptState.LOST, AttemptState.REFUSED}
)
#: Attempts that a scheduler holds: lost when it is.
ATTEMPT_OPEN = frozenset(AttemptState) - ATTEMPT_FINAL - {AttemptState.DEFERRED}
#: Node runs that hold a slot of their pool.
NODE_RUN_SLOTTED = frozenset({NodeRunState.QUEUED, NodeRunState.RUNNING})

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.RUNNING: RUN_FINAL,
    # A clear opens an ended run again.
    RunState.SUCCESS: frozenset({RunState.RUNNING}),
    RunState.FAILED: frozenset({RunState.RUNNING}),
    RunState.CANCELLED: frozenset({RunState.RUNNING}),
}

_CLEARED = frozenset({NodeRunState.PENDING, NodeRunState.READY})
NODE_RUN_MOVES: dict[NodeRunState, frozenset[NodeRunState]] = {
    NodeRunState.PENDING: frozenset(
        {
            NodeRunState.READY,
            NodeRunState.DEFERRED,
            NodeRunState.SUCCESS,  # a mapped summary, or marked by hand
            NodeRunState.FAILED,  # its `when` failed
            NodeRunState.SKIPPED,
            NodeRunState.UPSTREAM_FAILED,
            NodeRunState.CANCELLED,
        }
    ),
    NodeRunState.READY: frozenset(
        {
            NodeRunState.QUEUED,
            NodeRunState.PENDING,
            NodeRunState.FAILED,
            NodeRunState.SKIPPED,  # a branch or a mark took it back
            NodeRunState.SUCCESS,
            NodeRunState.UPSTREAM_FAILED,
            NodeRunState.CANCELLED,
        }
    ),
    NodeRunState.QUEUED: frozenset(
        {
            NodeRunState.RUNNING,
            NodeRunState.READY,  # a lost attempt
            NodeRunState.RETRYING,
            NodeRunState.DEFERRED,
            NodeRunState.SUCCESS,
            NodeRunState.FAILED,
            NodeRunState.CANCELLED,
        }
    ),
    NodeRunState.RUNNING: frozenset(
        {
            NodeRunState.READY,
            NodeRunState.RETRYING,
            NodeRunState.DEFERRED,
            NodeRunState.SUCCESS,
            NodeRunState.FAILED,
            NodeRunState.CANCELLED,
        }
    ),
    NodeRunState.DEFERRED: frozenset(
        {
            NodeRunState.READY,
            NodeRunState.SUCCESS,
            NodeRunState.FAILED,
            NodeRunState.SKIPPED,
            NodeRunState.CANCELLED,
            NodeRunState.PENDING,
        }
    ),
    NodeRunState.RETRYING: frozenset(
        {
            NodeRunState.READY,
            NodeRunState.PENDING,
            NodeRunState.SUCCESS,
            NodeRunState.FAILED,
            NodeRunState.SKIPPED,
            NodeRunState.CANCELLED,
        }
    ),
    # Clear takes a final node run back; mark moves it to another final state.
    **{state: (_CLEARED | NODE_RUN_FINAL) - {state} for state in NODE_RUN_FINAL},
}

ATTEMPT_MOVES: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.QUEUED: frozenset({AttemptState.LAUNCHING, AttemptState.RUNNING, AttemptState.DEFERRED})
    | ATTEMPT_FINAL,
    AttemptState.LAUNCHING: frozenset({AttemptState.RUNNING, AttemptState.DEFERRED}) | ATTEMPT_FINAL,
    AttemptState.RUNNING: ATTEMPT_FINAL | {AttemptState.DEFERRED},
    AttemptState.DEFERRED: ATTEMPT_FINAL | {AttemptState.QUEUED},
    **{state: frozenset() for state in ATTEMPT_FINAL},
}


SCHEDULER_DEAD = 8.0  #: Seconds without a heartbeat after which a scheduler is dead.


class TriggeredBy(StrEnum):
    """What began a run (SEMANTICS section 4)."""

    MANUAL = "manual"
    API = "api"
    CLI = "cli"
    CRON = "cron"
    INTERVAL = "interval"
    CALENDAR = "calendar"
    DATE = "date"
    EVENT = "event"
    WEBHOOK = "webhook"
    BACKFILL = "backfill"
    SUBRUN = "subrun"


class BackfillState(StrEnum):
    """Where a backfill stands."""

    RUNNING = "running"  #: It makes runs, as far as its limit allows.
    PAUSED = "paused"  #: It makes and starts none; those that run go on.
    SUCCESS = "success"  #: All its runs have ended in success.
    FAILED = "failed"  #: All its runs have ended, not all in success.
    CANCELLED = "cancelled"  #: Somebody cancelled it.


BACKFILL_FINAL = frozenset({BackfillState.SUCCESS, BackfillState.FAILED, BackfillState.CANCELLED})


class Reprocess(StrEnum):
    """Which dates that have a run already a backfill runs again."""

    NONE = "none"
    FAILED = "failed"  #: Those whose newest run failed or was cancelled.
    ALL = "all"


class TriggerRule(StrEnum):
    """When a node may start, given its upstreams (SEMANTICS section 1)."""

    ALL_SUCCESS = "all_success"
    ALL_FAILED = "all_failed"
    ALL_DONE = "all_done"
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    ONE_SUCCESS = "one_success"
    ONE_FAILED = "one_failed"
    ONE_DONE = "one_done"
    NONE_FAILED = "none_failed"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    NONE_SKIPPED = "none_skipped"
    ALL_SKIPPED = "all_skipped"
    ALWAYS = "always"

"""What there is to know about a node run that waits: values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentflow.states import NodeRunState, RunState


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run, and what its workflow allows."""

    id: str
    state: RunState
    workflow: str
    now: datetime  #: The database's clock.
    triggered_by: str = "manual"
    paused: bool = False
    pause_reason: str | None = None
    max_active_runs: int = 16
    active: tuple[str, ...] = ()  #: Some of the runs that are running.
    active_count: int = 0
    ahead: int = 0  #: Queued runs that start before it.
    blocked_by_past: tuple[str, str] | None = None  #: Id and state of the run before, with `depends_on_past`.
    concurrency: int | None = None
    concurrent: int = 0  #: Node runs of the workflow that hold slots.
    cancelling: bool = False
    reserved_for: str | None = None  #: Scheduler of `run FILE`.
    started: bool = False
    sub_run: bool = False
    backfill: str | None = None  #: Id of the backfill that made it: then the limit and the runs counted are that one's.
    backfill_paused: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """A direct upstream."""

    node: str
    state: NodeRunState


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds slots of the node's pool."""

    workflow: str
    run_id: str
    node: str
    slots: int


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """The node's pool."""

    name: str
    slots: int
    used: int
    holders: tuple[Holder, ...] = ()  #: The biggest, not all.


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """A scheduler that beats."""

    id: str
    hostname: str
    executors: tuple[str, ...]
    queues: tuple[str, ...]
    parallelism: int
    used: int  #: Attempts it has under way.


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """The newest attempt."""

    number: int
    state: str
    executor: str
    queued_at: datetime
    started_at: datetime | None
    scheduler_alive: bool
    last_word: str | None = None  #: Its error, or the newest line of its log.


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The node run."""

    address: str
    state: NodeRunState
    type: str
    trigger_rule: str = "all_success"
    upstreams: tuple[Upstream, ...] = ()  #: Those that are not done come first; not all of them.
    upstream_count: int = 0
    done_count: int = 0
    gated: bool = False
    resume_at: datetime | None = None
    resume_key: str | None = None
    ready_at: datetime | None = None
    executor: str = ""  #: Of the node; empty: the scheduler's default.
    queue: str = "default"
    io: bool = False
    pool_slots: int = 1
    ahead: int = 0  #: Ready node runs of its kind that are claimed before it; counted up to a bound.
    failures: int = 0
    losses: int = 0
    retries: int = 0
    max_parallel: int | None = None
    map_open: int = 0
    is_index: bool = False
    sub_runs: tuple[tuple[str, str], ...] = ()  #: Ids and states of open sub-runs.
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything together; `node` is null before the run has started."""

    run: RunFacts
    node: NodeFacts | None = None
    pool: PoolFacts | None = None
    schedulers: tuple[SchedulerFacts, ...] = field(default_factory=tuple)
    attempt: AttemptFacts | None = None

"""What happened: runs, node runs, attempts, outputs, logs, events.

All are RANGE-partitioned by the run's UUIDv7 at month boundaries, so that a month is dropped as a whole; every key
starts with the run id and no foreign key points here (ENGINE 1). CHECK constraints hold the state machine.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, desc, text
from sqlalchemy.orm import Mapped, mapped_column

from agentflow.db.models.base import Big, Bytes, Json, Model, No, Now, Small, SmallZero, Zero, one_of, quoted
from agentflow.states import (
    ATTEMPT_FINAL,
    ATTEMPT_OPEN,
    NODE_RUN_FINAL,
    NODE_RUN_SLOTTED,
    RUN_FINAL,
    AttemptState,
    NodeRunState,
    RunState,
    TriggeredBy,
)

#: The words that runs are found by: of their notes, and of keys and values of their params.
SEARCH = (
    "(to_tsvector('simple'::regconfig, note) || json_to_tsvector('simple'::regconfig, params,"
    """ '["key", "string", "numeric"]'::jsonb))"""
)
BY_ID = {"postgresql_partition_by": "RANGE (id)"}
BY_RUN = {"postgresql_partition_by": "RANGE (run_id)"}
NOT_MAPPED = -1  #: map_index of a node run that is not mapped, and of a mapped node's summary row.


class Run(Model):
    """One execution of a version."""

    __tablename__ = "run"
    __table_args__ = (
        one_of("state", RunState),
        one_of("triggered_by", TriggeredBy),
        CheckConstraint(f"(finished_at IS NOT NULL) = (state IN ({quoted(RUN_FINAL)}))", name="finished_iff_final"),
        CheckConstraint("(state = 'queued') <= (started_at IS NULL)", name="queued_not_started"),
        CheckConstraint("open_nodes >= 0 AND failed_leaves >= 0", name="counters"),
        Index("ix_run_open", "workflow_id", "state", postgresql_where=text("state IN ('queued', 'running')")),
        Index("ix_run_workflow", "workflow_id", "id"),
        # What lists filter by, each with the order of a page.
        Index("ix_run_workspace", "workspace_id", "id"),
        Index("ix_run_workspace_state", "workspace_id", "state", "id"),
        Index("ix_run_workspace_triggered_by", "workspace_id", "triggered_by", "id"),
        Index("ix_run_workflow_state", "workflow_id", "state", "id"),
        Index("ix_run_logical_date", "workflow_id", "logical_date", postgresql_where=text("logical_date IS NOT NULL")),
        Index(
            "ix_run_parent",
            "parent_run_id",
            "parent_node_no",
            "parent_map_index",
            "parent_seq",
            postgresql_where=text("parent_run_id IS NOT NULL"),
        ),
        Index("ix_run_search", text(SEARCH), postgresql_using="gin"),
        Index("ix_run_backfill", "backfill_id", "state", postgresql_where=text("backfill_id IS NOT NULL")),
        Index("ix_run_timeout", "timeout_at", postgresql_where=text("state = 'running' AND timeout_at IS NOT NULL")),
        BY_ID,
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    workflow_id: Mapped[Big]
    version_id: Mapped[Big]
    state: Mapped[str]
    triggered_by: Mapped[str]
    trigger_id: Mapped[Big | None]
    logical_date: Mapped[datetime | None]
    params: Mapped[Json]
    note: Mapped[str] = mapped_column(server_default="")
    actor: Mapped[str]
    request_id: Mapped[str | None]  #: Of the request that made it; its attempts and sub-runs carry it on.
    hidden: Mapped[No]  #: `run FILE`: left out of lists by default.
    reserved_for: Mapped[uuid.UUID | None]  #: Only this scheduler starts it, while its heartbeat lives.
    chain_depth: Mapped[SmallZero]  #: Event chains carry a depth.
    parent_run_id: Mapped[uuid.UUID | None]  #: Of a sub-run: the run whose `workflow` node made it.
    parent_node_no: Mapped[int | None]
    parent_map_index: Mapped[int | None]
    parent_seq: Mapped[int | None]  #: Its number among the sub-runs of that node run, from 0; in addresses.
    sub_depth: Mapped[SmallZero]  #: Sub-runs around it.
    backfill_id: Mapped[uuid.UUID | None]  #: The backfill that made it, or its outermost run.
    created_at: Mapped[Now]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    timeout_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    timed_out: Mapped[No]
    event_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    total_nodes: Mapped[Zero]
    open_nodes: Mapped[Zero]  #: Node runs that are not final; the run ends when this is 0.
    failed_leaves: Mapped[Zero]  #: Leaves that are failed or upstream_failed.
    grid: Mapped[Bytes | None]  #: Of an ended run: a byte per node, its state, in the order of the version's nodes.
    state_counts: Mapped[Json | None]  #: Of an ended run: node runs by state.


class NodeRun(Model):
    """A node within a run, with counters of its upstreams' outcomes."""

    __tablename__ = "node_run"
    __table_args__ = (
        one_of("state", NodeRunState),
        CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({quoted(NODE_RUN_FINAL)}))", name="finished_iff_final"
        ),
        CheckConstraint(
            f"(state IN ({quoted(NODE_RUN_SLOTTED)})) <= (attempt >= 1 AND executor IS NOT NULL)",
            name="slotted_has_attempt",
        ),
        CheckConstraint("(state = 'ready') <= (ready_at IS NOT NULL)", name="ready_has_time"),
        CheckConstraint("(state = 'retrying') <= (resume_at IS NOT NULL)", name="retrying_has_due"),
        CheckConstraint(
            "(state = 'deferred') <= (resume_at IS NOT NULL OR resume_key IS NOT NULL)", name="deferred_has_reason"
        ),
        CheckConstraint("map_open >= 0 AND map_success >= 0 AND map_failed >= 0", name="map_counters"),
        CheckConstraint(
            "up_success >= 0 AND up_failed >= 0 AND up_upstream_failed >= 0 AND up_skipped >= 0"
            " AND up_success + up_failed + up_upstream_failed + up_skipped <= n_up",
            name="upstream_counters",
        ),
        Index(
            "ix_node_run_ready",
            "group_id",
            desc("priority"),
            "ready_at",
            "run_id",
            "node_no",
            postgresql_where=text("state = 'ready'"),
        ),
        Index("ix_node_run_due", "resume_at", postgresql_where=text("resume_at IS NOT NULL")),
        Index("ix_node_run_open", "group_id", postgresql_where=text(f"state IN ({quoted(NODE_RUN_SLOTTED)})")),
        BY_RUN,
    )

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    map_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version_id: Mapped[Big]
    group_id: Mapped[int]
    state: Mapped[str]
    priority: Mapped[int]
    pool_slots: Mapped[Small]
    n_up: Mapped[int]
    up_success: Mapped[Zero]
    up_failed: Mapped[Zero]  #: failed and cancelled upstreams.
    up_upstream_failed: Mapped[Zero]
    up_skipped: Mapped[Zero]
    attempt: Mapped[SmallZero]  #: Number of the newest attempt; 0 before the first; never goes back.
    failures: Mapped[SmallZero]  #: Attempts that used up the user's retries since the last clear.
    losses: Mapped[SmallZero]  #: Attempts lost by the infrastructure since the last clear.
    executor: Mapped[str | None]
    ready_at: Mapped[datetime | None]
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    resume_at: Mapped[datetime | None]  #: When a retry, a deferral or an evaluation is due.
    resume_key: Mapped[str | None]  #: What it waits for, when that is not a time alone.
    resume_state: Mapped[Json | None]  #: What a deferred attempt wants to know when its next turn comes.
    error: Mapped[Json | None]
    item: Mapped[Json | None]  #: Of an index of a mapped node: its element of the list.
    map_open: Mapped[Zero]  #: Of a mapped node's summary row: indexes that are not final, and how the others ended.
    map_success: Mapped[Zero]
    map_failed: Mapped[Zero]  #: failed, upstream_failed, cancelled.


class Attempt(Model):
    """One try of a node run, fenced by a token."""

    __tablename__ = "attempt"
    __table_args__ = (
        one_of("state", AttemptState),
        CheckConstraint(f"(finished_at IS NOT NULL) = (state IN ({quoted(ATTEMPT_FINAL)}))", name="finished_iff_final"),
        Index("ix_attempt_open", "scheduler_id", postgresql_where=text(f"state IN ({quoted(ATTEMPT_OPEN)})")),
        BY_RUN,
    )

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    map_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[Small] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    token_hash: Mapped[Bytes]  #: SHA-256 of the fencing token.
    executor: Mapped[str]
    scheduler_id: Mapped[uuid.UUID]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[Json | None]
    # Written by the Task API for pods, first report wins (ENGINE 5); schedulers apply it.
    reported_state: Mapped[str | None]
    reported_output: Mapped[Json | None]
    reported_error: Mapped[Json | None]
    reported_at: Mapped[datetime | None]


class Output(Model):
    """The JSON a node run returned: here, or in the object store when it is large."""

    __tablename__ = "output"
    __table_args__ = (BY_RUN,)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    map_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[Json | None]  #: Null when `ref` is set.
    bytes: Mapped[int]
    ref: Mapped[str | None]  #: Name of the object that holds it.
    preview: Mapped[str | None]  #: With `ref`: its first characters.


class LogChunk(Model):
    """Some compressed lines of an attempt's log."""

    __tablename__ = "log_chunk"
    __table_args__ = (BY_RUN,)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    map_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[Small] = mapped_column(primary_key=True, autoincrement=False)
    chunk_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_seq: Mapped[int]
    lines: Mapped[int]
    truncated_bytes: Mapped[Big]
    data: Mapped[Bytes]  #: zlib of JSON lines `[seq, at, stream, level, text]`.


class RunEvent(Model):
    """A run's history, gap-free by seq."""

    __tablename__ = "run_event"
    __table_args__ = (BY_RUN,)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    seq: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str]  #: `run` or `node` (a state was reached), `refused` (a late result), `repaired`, …
    node_no: Mapped[int | None]
    map_index: Mapped[int | None]
    attempt: Mapped[Small | None]
    state: Mapped[str | None]
    detail: Mapped[Json | None]


#: Tables partitioned by run, in the order they are created; `run` is keyed by `id`, the others by `run_id`.
PARTITIONED = ("run", "node_run", "attempt", "output", "log_chunk", "run_event")

"""What keeps the system going: triggers and their fires, schedulers, the audit log."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from agentflow.db.models.base import (
    Big,
    BigId,
    Bytes,
    Json,
    Model,
    No,
    Now,
    Small,
    TextList,
    Yes,
    Zero,
    one_of,
    quoted,
)
from agentflow.states import BACKFILL_FINAL, BackfillState, Reprocess

SCHEDULER_STATES = ("alive", "stopping", "stopped", "dead")
FIRE_OUTCOMES = ("run", "skipped", "refused", "backfill")


class Trigger(Model):
    """What starts runs of a workflow by itself; keeps its clock across versions while its text is unchanged."""

    __tablename__ = "trigger"
    __table_args__ = (
        UniqueConstraint("workflow_id", "identity"),
        Index("ix_trigger_due", "next_fire_at", postgresql_where=text("active AND next_fire_at IS NOT NULL")),
    )

    id: Mapped[BigId]
    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"))
    identity: Mapped[str]  #: Its name, else the hash of its canonical text.
    type: Mapped[str]
    config: Mapped[Json]
    active: Mapped[Yes]  #: Part of the published version.
    paused: Mapped[No]
    next_fire_at: Mapped[datetime | None]
    created_at: Mapped[Now]


class Fire(Model):
    """Each fire happens once, however many schedulers run: this key is the proof."""

    __tablename__ = "fire"
    __table_args__ = (one_of("outcome", FIRE_OUTCOMES),)

    trigger_id: Mapped[Big] = mapped_column(ForeignKey("trigger.id", ondelete="CASCADE"), primary_key=True)
    logical_date: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    run_id: Mapped[uuid.UUID | None]
    outcome: Mapped[str]
    fired_at: Mapped[Now]


class EventSource(Model):
    """A workflow whose ends an event trigger waits for."""

    __tablename__ = "event_source"
    __table_args__ = (Index("ix_event_source_workflow", "workspace_id", "workflow"),)

    trigger_id: Mapped[Big] = mapped_column(ForeignKey("trigger.id", ondelete="CASCADE"), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    workflow: Mapped[str] = mapped_column(primary_key=True)  #: By name: it need not exist yet.


class EventArrival(Model):
    """The latest end of a workflow that an event trigger with `mode: all` waits for, until the others have ended."""

    __tablename__ = "event_arrival"

    trigger_id: Mapped[Big] = mapped_column(ForeignKey("trigger.id", ondelete="CASCADE"), primary_key=True)
    workflow: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[uuid.UUID]
    ended_at: Mapped[datetime]
    chain_depth: Mapped[Small]


class ManualDate(Model):
    """A logical date given by hand is unique per workflow."""

    __tablename__ = "manual_date"

    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"), primary_key=True)
    logical_date: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    run_id: Mapped[uuid.UUID]


class Backfill(Model):
    """A range of dates of a trigger that is run afterwards; its runs are made a few at a time."""

    __tablename__ = "backfill"
    __table_args__ = (
        one_of("reprocess", Reprocess),
        one_of("state", BackfillState),
        CheckConstraint("max_active_runs >= 1", name="max_active_runs_positive"),
        CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({quoted(BACKFILL_FINAL)}))", name="finished_iff_final"
        ),
        Index("ix_backfill_workspace", "workspace_id", "id"),
        # Two at once would make two runs of a date.
        Index(
            "uq_backfill_active", "workflow_id", unique=True, postgresql_where=text("state IN ('running', 'paused')")
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"))
    version_id: Mapped[Big]  #: Published when it was made: all its runs are of it.
    trigger_id: Mapped[Big]
    trigger_config: Mapped[Json]  #: As it was then.
    first_date: Mapped[datetime]  #: Both ends are included.
    last_date: Mapped[datetime]
    reprocess: Mapped[str]
    reverse: Mapped[bool]
    max_active_runs: Mapped[int]
    params: Mapped[Json]
    state: Mapped[str]
    total: Mapped[int]  #: Fires in the range.
    made: Mapped[Zero]  #: Runs.
    skipped: Mapped[Zero]  #: Dates that kept the run they had.
    reached: Mapped[datetime | None]  #: The date that was looked at last.
    exhausted: Mapped[No]  #: All dates have been looked at.
    created_at: Mapped[Now]
    created_by: Mapped[str]
    finished_at: Mapped[datetime | None]


class RunEnd(Model):
    """Outbox: a run has ended and not everybody who waits for that has been told."""

    __tablename__ = "run_end"

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    at: Mapped[Now]


class ObjectTrash(Model):
    """Objects to be deleted from the store: those of runs and months that are gone."""

    __tablename__ = "object_trash"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[Now]


class RunWaiter(Model):
    """A deferred node run that waits for the end of another run."""

    __tablename__ = "run_waiter"

    awaited_run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    map_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Scheduler(Model):
    """A scheduler process and its heartbeat."""

    __tablename__ = "scheduler"
    __table_args__ = (one_of("state", SCHEDULER_STATES),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    state: Mapped[str]
    executors: Mapped[TextList]
    queues: Mapped[TextList]
    parallelism: Mapped[int]
    started_at: Mapped[Now]
    beat_at: Mapped[Now]


class IdempotencyKey(Model):
    """What a request with an `Idempotency-Key` was answered; kept for a day."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index("ix_idempotency_key_created_at", "created_at"),)

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[Bytes]
    status: Mapped[Small]
    answer: Mapped[Json]
    created_at: Mapped[Now]


class AuditEvent(Model):
    """Who did what (ENGINE 2); insert-only."""

    __tablename__ = "audit_event"
    __table_args__ = (Index("ix_audit_event_at", "at"),)

    id: Mapped[BigId]
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    at: Mapped[Now]
    actor: Mapped[str]
    action: Mapped[str]  #: `workflow.applied`, `run.cancelled`, …
    subject: Mapped[str]  #: Name or id of what it was done to.
    detail: Mapped[Json]

"""What people define: workspaces, workflows and their versions, pools, variables."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from agentflow.db.models.base import Big, BigId, Bytes, IntId, Json, Model, No, Now, TextList, Zero, one_of
from agentflow.states import TriggerRule

WORKFLOW_SOURCES = ("file", "api", "adhoc")


class Workspace(Model):
    """A tenant: every owned row names one."""

    __tablename__ = "workspace"

    id: Mapped[IntId]
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[Now]


class Workflow(Model):
    """A named definition; its content is in the versions."""

    __tablename__ = "workflow"
    __table_args__ = (
        one_of("source", WORKFLOW_SOURCES),
        CheckConstraint("max_active_runs >= 1", name="max_active_runs_positive"),
        # `run FILE` keeps its specs apart: they never take a published name.
        Index("uq_workflow_name", "workspace_id", "name", unique=True, postgresql_where=text("source <> 'adhoc'")),
        Index("uq_workflow_adhoc", "workspace_id", "name", unique=True, postgresql_where=text("source = 'adhoc'")),
    )

    id: Mapped[BigId]
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    name: Mapped[str]
    source: Mapped[str]
    source_path: Mapped[str | None]  #: File below the DAG folder, for source `file`.
    title: Mapped[str] = mapped_column(server_default="")
    description: Mapped[str] = mapped_column(server_default="")
    tags: Mapped[TextList]
    paused: Mapped[No]
    missing: Mapped[No]  #: Its file is gone: no fires, nothing deleted.
    published_version_id: Mapped[Big | None]  #: No foreign key: the two rows are written in one transaction.
    published_version: Mapped[Zero]
    max_active_runs: Mapped[int] = mapped_column(server_default=text("16"))
    concurrency: Mapped[int | None]  #: Node runs at once; null is unlimited.
    depends_on_past: Mapped[No]  #: A run by the clock waits until the one before it has ended in success.
    max_consecutive_failures: Mapped[int | None]  #: So many failed runs in a row pause it.
    pause_reason: Mapped[str | None]  #: Why the system paused it; null when a person did.
    resumed_at: Mapped[datetime | None]  #: Failures from before it was last unpaused do not count.
    created_at: Mapped[Now]
    updated_at: Mapped[Now]


class WorkflowVersion(Model):
    """An immutable snapshot of a spec: runs are pinned to it."""

    __tablename__ = "workflow_version"
    __table_args__ = (UniqueConstraint("workflow_id", "version"),)

    id: Mapped[BigId]
    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"))
    version: Mapped[int]
    spec: Mapped[Json]
    content_hash: Mapped[str]
    bundle_hash: Mapped[str | None] = mapped_column(ForeignKey("bundle.hash"))
    timeout: Mapped[float | None]  #: Seconds, of a run.
    message: Mapped[str] = mapped_column(server_default="")  #: What its publisher said of it.
    created_at: Mapped[Now]
    created_by: Mapped[str]


class WorkflowDraft(Model):
    """A document that is not published yet and need not be valid: one per workflow."""

    __tablename__ = "workflow_draft"

    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    base_version: Mapped[int]  #: The published version that it was begun on.
    revision: Mapped[int] = mapped_column(server_default=text("1"))  #: Counts how often it was saved.
    document: Mapped[Json]
    updated_at: Mapped[Now]
    updated_by: Mapped[str]


class Bundle(Model):
    """A content-addressed archive of user code."""

    __tablename__ = "bundle"

    hash: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[Bytes]
    created_at: Mapped[Now]


class DispatchGroup(Model):
    """Node runs that compete for the same slots: the unit of the claim (ENGINE 4)."""

    __tablename__ = "dispatch_group"
    __table_args__ = (
        UniqueConstraint(
            "workflow_id",
            "pool_id",
            "executor",
            "queue",
            "reserved_for",
            "io",
            "backfill",
            name="uq_dispatch_group_unit",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[IntId]
    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"))
    pool_id: Mapped[int] = mapped_column(ForeignKey("pool.id"))
    executor: Mapped[str]  #: Empty: the claiming scheduler's default.
    queue: Mapped[str]
    reserved_for: Mapped[uuid.UUID | None]  #: Scheduler id of a `run FILE`; nobody else claims from it.
    io: Mapped[No]  #: Its nodes only wait for the network: where the executor has I/O lanes, they take slots of those.
    backfill: Mapped[No]  #: Of runs of backfills, which share slots with all others.


class VersionNode(Model):
    """A node of a version, with what the engine needs in SQL; the whole definition stays in the spec."""

    __tablename__ = "version_node"
    __table_args__ = (
        UniqueConstraint("version_id", "node_id"),
        one_of("trigger_rule", TriggerRule),
        CheckConstraint("n_up >= 0 AND pool_slots >= 1 AND retries >= 0", name="bounds"),
    )

    version_id: Mapped[Big] = mapped_column(ForeignKey("workflow_version.id", ondelete="CASCADE"), primary_key=True)
    node_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    node_id: Mapped[str]
    type: Mapped[str]
    trigger_rule: Mapped[str]
    gated: Mapped[bool]  #: The evaluator speaks before it is ready: `when`, `for_each`, a branch, a sub-run.
    is_leaf: Mapped[bool]
    mapped: Mapped[No]  #: Has a `for_each`: one node run per item beside its summary.
    index_gated: Mapped[No]  #: The evaluator speaks about each index too: `when`, or a sub-run.
    max_parallel: Mapped[int | None]  #: Indexes at once.
    below_branch: Mapped[bool]  #: A direct upstream is a branch: no rule decides before that has chosen.
    n_up: Mapped[int]
    group_id: Mapped[int] = mapped_column(ForeignKey("dispatch_group.id"))
    priority: Mapped[int]
    pool_slots: Mapped[int]
    retries: Mapped[int]
    retry_delay: Mapped[float]  #: Seconds.
    retry_backoff: Mapped[float]
    retry_max_delay: Mapped[float]  #: Seconds.
    retry_jitter: Mapped[float] = mapped_column(server_default=text("0"))  #: Share of the delay, 0 to 1.
    retry_on: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  #: Error types and exit codes; null: all.
    fail_on: Mapped[list[str] | None] = mapped_column(ARRAY(Text))


class VersionEdge(Model):
    """An edge of a version: the graph is stored per version, never per run."""

    __tablename__ = "version_edge"
    __table_args__ = (Index("ix_version_edge_down", "version_id", "down_no", "up_no"),)

    version_id: Mapped[Big] = mapped_column(ForeignKey("workflow_version.id", ondelete="CASCADE"), primary_key=True)
    up_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    down_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Pool(Model):
    """A named limit on node runs at once."""

    __tablename__ = "pool"
    __table_args__ = (UniqueConstraint("workspace_id", "name"), CheckConstraint("slots >= 0", name="slots_bounds"))

    id: Mapped[IntId]
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"))
    name: Mapped[str]
    slots: Mapped[int]
    description: Mapped[str] = mapped_column(server_default="")


class Variable(Model):
    """A value that templates read as `vars.<name>`."""

    __tablename__ = "variable"

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Json]
    updated_at: Mapped[Now]


class Secret(Model):
    """A value that templates read as `secrets.<name>`, encrypted (agentflow.secrets)."""

    __tablename__ = "secret"

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    ciphertext: Mapped[Bytes]
    key_id: Mapped[str]  #: The key that wraps the value's own key.
    wrapped_key: Mapped[Bytes]
    updated_at: Mapped[Now]
    updated_by: Mapped[str]


class Connection(Model):
    """How to reach a system: plain fields, and secret ones, encrypted together as a JSON object."""

    __tablename__ = "connection"
    __table_args__ = (
        CheckConstraint("num_nulls(ciphertext, key_id, wrapped_key) IN (0, 3)", name="sealed_whole"),
        CheckConstraint("(cardinality(secret_fields) > 0) = (ciphertext IS NOT NULL)", name="sealed_iff_secret_fields"),
    )

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    config: Mapped[Json]
    secret_fields: Mapped[TextList]
    ciphertext: Mapped[Bytes | None]
    key_id: Mapped[str | None]
    wrapped_key: Mapped[Bytes | None]
    updated_at: Mapped[Now]
    updated_by: Mapped[str]


class SourceFile(Model):
    """What the folder sync last saw of a file, its import error included."""

    __tablename__ = "source_file"

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)  #: Below the folder.
    fingerprint: Mapped[str]
    message: Mapped[str | None]  #: Null: it loaded.
    line: Mapped[int | None]
    traceback: Mapped[str | None]
    seen_at: Mapped[Now]


class DagFolder(Model):
    """The one folder a workspace is synced from: a second one is an import error, not flapping versions."""

    __tablename__ = "dag_folder"

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    folder: Mapped[str]
    hostname: Mapped[str]
    scheduler_id: Mapped[str]
    seen_at: Mapped[datetime]

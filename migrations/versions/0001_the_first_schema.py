"""The first schema

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTITIONED = ("run", "node_run", "attempt", "output", "log_chunk", "run_event")


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("node_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("executor", sa.Text(), nullable=False),
        sa.Column("scheduler_id", sa.UUID(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("reported_state", sa.Text(), nullable=True),
        sa.Column("reported_output", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("reported_error", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('cancelled', 'failed', 'lost', 'refused', 'success'))",
            name=op.f("ck_attempt_finished_iff_final"),
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'failed', 'launching', 'lost', 'queued', 'refused', 'running', 'success')",
            name=op.f("ck_attempt_state_known"),
        ),
        sa.PrimaryKeyConstraint("run_id", "node_no", "map_index", "attempt", name=op.f("pk_attempt")),
        postgresql_partition_by="RANGE (run_id)",
    )
    op.create_index(
        "ix_attempt_open",
        "attempt",
        ["scheduler_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('launching', 'queued', 'running')"),
    )
    op.create_table(
        "bundle",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_bundle")),
    )
    op.create_table(
        "log_chunk",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("node_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("chunk_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("truncated_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "node_no", "map_index", "attempt", "chunk_no", name=op.f("pk_log_chunk")),
        postgresql_partition_by="RANGE (run_id)",
    )
    op.create_table(
        "node_run",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("node_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("pool_slots", sa.SmallInteger(), nullable=False),
        sa.Column("n_up", sa.Integer(), nullable=False),
        sa.Column("up_success", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("up_failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("up_upstream_failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("up_skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("losses", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("executor", sa.Text(), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resume_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resume_key", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('cancelled', 'failed', 'skipped', 'success', 'upstream_failed'))",
            name=op.f("ck_node_run_finished_iff_final"),
        ),
        sa.CheckConstraint("(state = 'ready') <= (ready_at IS NOT NULL)", name=op.f("ck_node_run_ready_has_time")),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) <= (attempt >= 1 AND executor IS NOT NULL)",
            name=op.f("ck_node_run_slotted_has_attempt"),
        ),
        sa.CheckConstraint(
            "(state IN ('retrying', 'deferred')) <= (resume_at IS NOT NULL)", name=op.f("ck_node_run_waiting_has_due")
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'deferred', 'failed', 'pending', 'queued', 'ready', 'retrying', 'running', 'skipped', 'success', 'upstream_failed')",
            name=op.f("ck_node_run_state_known"),
        ),
        sa.CheckConstraint(
            "up_success >= 0 AND up_failed >= 0 AND up_upstream_failed >= 0 AND up_skipped >= 0 AND up_success + up_failed + up_upstream_failed + up_skipped <= n_up",
            name=op.f("ck_node_run_upstream_counters"),
        ),
        sa.PrimaryKeyConstraint("run_id", "node_no", "map_index", name=op.f("pk_node_run")),
        postgresql_partition_by="RANGE (run_id)",
    )
    op.create_index(
        "ix_node_run_due", "node_run", ["resume_at"], unique=False, postgresql_where=sa.text("resume_at IS NOT NULL")
    )
    op.create_index(
        "ix_node_run_open",
        "node_run",
        ["group_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_node_run_ready",
        "node_run",
        ["group_id", sa.literal_column("priority DESC"), "ready_at", "run_id", "node_no"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "output",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("node_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "node_no", "map_index", name=op.f("pk_output")),
        postgresql_partition_by="RANGE (run_id)",
    )
    op.create_table(
        "run",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("triggered_by", sa.Text(), nullable=False),
        sa.Column("trigger_id", sa.BigInteger(), nullable=True),
        sa.Column("logical_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("params", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("hidden", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reserved_for", sa.UUID(), nullable=True),
        sa.Column("chain_depth", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timeout_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timed_out", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_nodes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("open_nodes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_leaves", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('cancelled', 'failed', 'success'))",
            name=op.f("ck_run_finished_iff_final"),
        ),
        sa.CheckConstraint("(state = 'queued') <= (started_at IS NULL)", name=op.f("ck_run_queued_not_started")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'failed', 'queued', 'running', 'success')", name=op.f("ck_run_state_known")
        ),
        sa.CheckConstraint(
            "triggered_by IN ('api', 'backfill', 'calendar', 'cli', 'cron', 'date', 'event', 'interval', 'manual', 'subrun', 'webhook')",
            name=op.f("ck_run_triggered_by_known"),
        ),
        sa.CheckConstraint("open_nodes >= 0 AND failed_leaves >= 0", name=op.f("ck_run_counters")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(
        "ix_run_open",
        "run",
        ["workflow_id", "state"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_run_timeout",
        "run",
        ["timeout_at"],
        unique=False,
        postgresql_where=sa.text("state = 'running' AND timeout_at IS NOT NULL"),
    )
    op.create_index("ix_run_workflow", "run", ["workflow_id", "id"], unique=False)
    op.create_table(
        "run_event",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("node_no", sa.Integer(), nullable=True),
        sa.Column("map_index", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.SmallInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("detail", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "seq", name=op.f("pk_run_event")),
        postgresql_partition_by="RANGE (run_id)",
    )
    op.create_table(
        "scheduler",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("executors", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("parallelism", sa.Integer(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("state IN ('alive', 'dead', 'stopped', 'stopping')", name=op.f("ck_scheduler_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduler")),
    )
    op.create_table(
        "workspace",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace")),
        sa.UniqueConstraint("name", name=op.f("uq_workspace_name")),
    )
    op.create_table(
        "audit_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_audit_event_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_event")),
    )
    op.create_index("ix_audit_event_at", "audit_event", ["at"], unique=False)
    op.create_table(
        "dag_folder",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("scheduler_id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_dag_folder_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_dag_folder")),
    )
    op.create_table(
        "pool",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("slots >= 0", name=op.f("ck_pool_slots_bounds")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_pool_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pool")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_pool_workspace_id_name")),
    )
    op.create_table(
        "source_file",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_source_file_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("workspace_id", "path", name=op.f("pk_source_file")),
    )
    op.create_table(
        "variable",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_variable_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("workspace_id", "name", name=op.f("pk_variable")),
    )
    op.create_table(
        "workflow",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_path", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("missing", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("published_version_id", sa.BigInteger(), nullable=True),
        sa.Column("published_version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_active_runs", sa.Integer(), server_default=sa.text("16"), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("source IN ('adhoc', 'api', 'file')", name=op.f("ck_workflow_source_known")),
        sa.CheckConstraint("max_active_runs >= 1", name=op.f("ck_workflow_max_active_runs_positive")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_workflow_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflow")),
    )
    op.create_index(
        "uq_workflow_adhoc",
        "workflow",
        ["workspace_id", "name"],
        unique=True,
        postgresql_where=sa.text("source = 'adhoc'"),
    )
    op.create_index(
        "uq_workflow_name",
        "workflow",
        ["workspace_id", "name"],
        unique=True,
        postgresql_where=sa.text("source <> 'adhoc'"),
    )
    op.create_table(
        "dispatch_group",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("executor", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("reserved_for", sa.UUID(), nullable=True),
        sa.ForeignKeyConstraint(["pool_id"], ["pool.id"], name=op.f("fk_dispatch_group_pool_id_pool")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_dispatch_group_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dispatch_group")),
        sa.UniqueConstraint(
            "workflow_id",
            "pool_id",
            "executor",
            "queue",
            "reserved_for",
            name=op.f("uq_dispatch_group_workflow_id_pool_id_executor_queue_reserved_for"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "manual_date",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("logical_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_manual_date_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_id", "logical_date", name=op.f("pk_manual_date")),
    )
    op.create_table(
        "trigger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("next_fire_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_trigger_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trigger")),
        sa.UniqueConstraint("workflow_id", "identity", name=op.f("uq_trigger_workflow_id_identity")),
    )
    op.create_index(
        "ix_trigger_due",
        "trigger",
        ["next_fire_at"],
        unique=False,
        postgresql_where=sa.text("active AND next_fire_at IS NOT NULL"),
    )
    op.create_table(
        "workflow_version",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("spec", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("bundle_hash", sa.Text(), nullable=True),
        sa.Column("timeout", sa.Double(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["bundle_hash"], ["bundle.hash"], name=op.f("fk_workflow_version_bundle_hash_bundle")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_workflow_version_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflow_version")),
        sa.UniqueConstraint("workflow_id", "version", name=op.f("uq_workflow_version_workflow_id_version")),
    )
    op.create_table(
        "fire",
        sa.Column("trigger_id", sa.BigInteger(), nullable=False),
        sa.Column("logical_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("fired_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("outcome IN ('run', 'skipped')", name=op.f("ck_fire_outcome_known")),
        sa.ForeignKeyConstraint(
            ["trigger_id"], ["trigger.id"], name=op.f("fk_fire_trigger_id_trigger"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trigger_id", "logical_date", name=op.f("pk_fire")),
    )
    op.create_table(
        "version_edge",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("up_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("down_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["workflow_version.id"],
            name=op.f("fk_version_edge_version_id_workflow_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "up_no", "down_no", name=op.f("pk_version_edge")),
    )
    op.create_index("ix_version_edge_down", "version_edge", ["version_id", "down_no", "up_no"], unique=False)
    op.create_table(
        "version_node",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("node_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("trigger_rule", sa.Text(), nullable=False),
        sa.Column("gated", sa.Boolean(), nullable=False),
        sa.Column("is_leaf", sa.Boolean(), nullable=False),
        sa.Column("below_branch", sa.Boolean(), nullable=False),
        sa.Column("n_up", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("pool_slots", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("retry_delay", sa.Double(), nullable=False),
        sa.Column("retry_backoff", sa.Double(), nullable=False),
        sa.Column("retry_max_delay", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "trigger_rule IN ('all_done', 'all_done_min_one_success', 'all_failed', 'all_skipped', 'all_success', 'always', 'none_failed', 'none_failed_min_one_success', 'none_skipped', 'one_done', 'one_failed', 'one_success')",
            name=op.f("ck_version_node_trigger_rule_known"),
        ),
        sa.CheckConstraint("n_up >= 0 AND pool_slots >= 1 AND retries >= 0", name=op.f("ck_version_node_bounds")),
        sa.ForeignKeyConstraint(
            ["group_id"], ["dispatch_group.id"], name=op.f("fk_version_node_group_id_dispatch_group")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["workflow_version.id"],
            name=op.f("fk_version_node_version_id_workflow_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "node_no", name=op.f("pk_version_node")),
        sa.UniqueConstraint("version_id", "node_id", name=op.f("uq_version_node_version_id_node_id")),
    )

    # Months are made ahead by `agentflow.db.partitions`; rows here raise an alarm.
    for table in PARTITIONED:
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute("INSERT INTO workspace (name) VALUES ('default')")
    op.execute(
        "INSERT INTO pool (workspace_id, name, slots, description)"
        " SELECT id, 'default', 128, 'Every node that names no pool' FROM workspace"
    )


def downgrade() -> None:
    op.drop_table("version_node")
    op.drop_index("ix_version_edge_down", table_name="version_edge")
    op.drop_table("version_edge")
    op.drop_table("fire")
    op.drop_table("workflow_version")
    op.drop_index(
        "ix_trigger_due", table_name="trigger", postgresql_where=sa.text("active AND next_fire_at IS NOT NULL")
    )
    op.drop_table("trigger")
    op.drop_table("manual_date")
    op.drop_table("dispatch_group")
    op.drop_index("uq_workflow_name", table_name="workflow", postgresql_where=sa.text("source <> 'adhoc'"))
    op.drop_index("uq_workflow_adhoc", table_name="workflow", postgresql_where=sa.text("source = 'adhoc'"))
    op.drop_table("workflow")
    op.drop_table("variable")
    op.drop_table("source_file")
    op.drop_table("pool")
    op.drop_table("dag_folder")
    op.drop_index("ix_audit_event_at", table_name="audit_event")
    op.drop_table("audit_event")
    op.drop_table("workspace")
    op.drop_table("scheduler")
    op.drop_table("run_event")
    op.drop_index("ix_run_workflow", table_name="run")
    op.drop_index(
        "ix_run_timeout", table_name="run", postgresql_where=sa.text("state = 'running' AND timeout_at IS NOT NULL")
    )
    op.drop_index("ix_run_open", table_name="run", postgresql_where=sa.text("state IN ('queued', 'running')"))
    op.drop_table("run")
    op.drop_table("output")
    op.drop_index("ix_node_run_ready", table_name="node_run", postgresql_where=sa.text("state = 'ready'"))
    op.drop_index("ix_node_run_open", table_name="node_run", postgresql_where=sa.text("state IN ('queued', 'running')"))
    op.drop_index("ix_node_run_due", table_name="node_run", postgresql_where=sa.text("resume_at IS NOT NULL"))
    op.drop_table("node_run")
    op.drop_table("log_chunk")
    op.drop_table("bundle")
    op.drop_index(
        "ix_attempt_open", table_name="attempt", postgresql_where=sa.text("state IN ('launching', 'queued', 'running')")
    )
    op.drop_table("attempt")

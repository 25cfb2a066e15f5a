"""Backfills: ranges of dates of a trigger, run afterwards

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

UNIT = "uq_dispatch_group_unit"
COLUMNS = ["workflow_id", "pool_id", "executor", "queue", "reserved_for", "io"]
FALSE = sa.text("false")
ZERO = sa.text("0")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.create_table(
        "backfill",
        sa.Column("id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("trigger_id", sa.BigInteger(), nullable=False),
        sa.Column("trigger_config", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("first_date", TIME, nullable=False),
        sa.Column("last_date", TIME, nullable=False),
        sa.Column("reprocess", sa.Text(), nullable=False),
        sa.Column("reverse", sa.Boolean(), nullable=False),
        sa.Column("max_active_runs", sa.Integer(), nullable=False),
        sa.Column("params", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("made", sa.Integer(), server_default=ZERO, nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=ZERO, nullable=False),
        sa.Column("reached", TIME, nullable=True),
        sa.Column("exhausted", sa.Boolean(), server_default=FALSE, nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.CheckConstraint("reprocess IN ('all', 'failed', 'none')", name=op.f("ck_backfill_reprocess_known")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'failed', 'paused', 'running', 'success')", name=op.f("ck_backfill_state_known")
        ),
        sa.CheckConstraint("max_active_runs >= 1", name=op.f("ck_backfill_max_active_runs_positive")),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('cancelled', 'failed', 'success'))",
            name=op.f("ck_backfill_finished_iff_final"),
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_backfill_workspace_id_workspace")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_backfill_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfill")),
    )
    op.create_index("ix_backfill_workspace", "backfill", ["workspace_id", "id"])
    op.create_index(
        "uq_backfill_active",
        "backfill",
        ["workflow_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('running', 'paused')"),
    )
    op.add_column("run", sa.Column("backfill_id", postgresql.UUID(as_uuid=True), nullable=True))
    op.create_index(
        "ix_run_backfill", "run", ["backfill_id", "state"], postgresql_where=sa.text("backfill_id IS NOT NULL")
    )
    op.add_column("dispatch_group", sa.Column("backfill", sa.Boolean(), server_default=FALSE, nullable=False))
    op.drop_constraint(UNIT, "dispatch_group")
    op.create_unique_constraint(UNIT, "dispatch_group", [*COLUMNS, "backfill"], postgresql_nulls_not_distinct=True)
    _fire_outcomes("backfill", "refused", "run", "skipped")


def _fire_outcomes(*words: str) -> None:
    op.drop_constraint(op.f("ck_fire_outcome_known"), "fire")
    listed = ", ".join(f"'{word}'" for word in words)
    op.create_check_constraint(op.f("ck_fire_outcome_known"), "fire", f"outcome IN ({listed})")


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.execute(sa.text("DELETE FROM fire WHERE outcome = 'backfill'"))
    _fire_outcomes("refused", "run", "skipped")
    op.drop_constraint(UNIT, "dispatch_group")
    # Groups of backfills become the ordinary ones.
    op.execute(
        sa.text("""
        CREATE TEMPORARY TABLE merged ON COMMIT DROP AS SELECT g.id, o.id AS into_id FROM dispatch_group g
        JOIN dispatch_group o ON (o.workflow_id, o.pool_id, o.executor, o.queue, o.io)
            = (g.workflow_id, g.pool_id, g.executor, g.queue, g.io)
          AND o.reserved_for IS NOT DISTINCT FROM g.reserved_for AND g.backfill AND NOT o.backfill
    """)
    )
    op.execute(sa.text("UPDATE node_run SET group_id = m.into_id FROM merged m WHERE group_id = m.id"))
    op.execute(sa.text("DELETE FROM dispatch_group WHERE id IN (SELECT id FROM merged)"))
    op.drop_column("dispatch_group", "backfill")
    op.create_unique_constraint(UNIT, "dispatch_group", COLUMNS, postgresql_nulls_not_distinct=True)
    op.drop_index("ix_run_backfill", "run")
    op.drop_column("run", "backfill_id")
    op.drop_table("backfill")

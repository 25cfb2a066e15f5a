"""Mapped nodes, sub-runs, deferral, and the outbox of ended runs

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ZERO = sa.text("0")


def upgrade() -> None:
    # New columns are nullable or have a constant default: no table is rewritten. Checks are replaced by wider ones,
    # which reads the two tables once.
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    _mapped_nodes()
    _sub_runs()
    _deferral()
    op.create_table(
        "run_end",
        sa.Column("run_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_end")),
    )
    op.create_table(
        "run_waiter",
        sa.Column("awaited_run_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("run_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("node_no", sa.Integer(), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("awaited_run_id", "run_id", "node_no", "map_index", name=op.f("pk_run_waiter")),
    )


def _mapped_nodes() -> None:
    op.add_column("version_node", sa.Column("mapped", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column(
        "version_node", sa.Column("index_gated", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("version_node", sa.Column("max_parallel", sa.Integer(), nullable=True))
    op.add_column("node_run", sa.Column("item", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    for column in ("map_open", "map_success", "map_failed"):
        op.add_column("node_run", sa.Column(column, sa.Integer(), server_default=ZERO, nullable=False))
    op.create_check_constraint(
        op.f("ck_node_run_map_counters"), "node_run", "map_open >= 0 AND map_success >= 0 AND map_failed >= 0"
    )


def _sub_runs() -> None:
    op.add_column("run", sa.Column("parent_run_id", postgresql.UUID(as_uuid=True), nullable=True))
    op.add_column("run", sa.Column("parent_node_no", sa.Integer(), nullable=True))
    op.add_column("run", sa.Column("parent_map_index", sa.Integer(), nullable=True))
    op.add_column("run", sa.Column("parent_seq", sa.Integer(), nullable=True))
    op.add_column("run", sa.Column("sub_depth", sa.SmallInteger(), server_default=ZERO, nullable=False))
    op.create_index(
        "ix_run_parent",
        "run",
        ["parent_run_id", "parent_node_no", "parent_map_index", "parent_seq"],
        postgresql_where=sa.text("parent_run_id IS NOT NULL"),
    )


def _deferral() -> None:
    op.add_column("node_run", sa.Column("resume_state", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    op.drop_constraint(op.f("ck_node_run_waiting_has_due"), "node_run")
    op.create_check_constraint(
        op.f("ck_node_run_retrying_has_due"), "node_run", "(state = 'retrying') <= (resume_at IS NOT NULL)"
    )
    op.create_check_constraint(
        op.f("ck_node_run_deferred_has_reason"),
        "node_run",
        "(state = 'deferred') <= (resume_at IS NOT NULL OR resume_key IS NOT NULL)",
    )
    op.drop_constraint(op.f("ck_attempt_state_known"), "attempt")
    op.create_check_constraint(
        op.f("ck_attempt_state_known"),
        "attempt",
        "state IN ('cancelled', 'deferred', 'failed', 'launching', 'lost', 'queued', 'refused', 'running', 'success')",
    )


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_table("run_waiter")
    op.drop_table("run_end")
    op.drop_constraint(op.f("ck_attempt_state_known"), "attempt")
    op.create_check_constraint(
        op.f("ck_attempt_state_known"),
        "attempt",
        "state IN ('cancelled', 'failed', 'launching', 'lost', 'queued', 'refused', 'running', 'success')",
    )
    for name in ("deferred_has_reason", "retrying_has_due", "map_counters"):
        op.drop_constraint(op.f(f"ck_node_run_{name}"), "node_run")
    op.create_check_constraint(
        op.f("ck_node_run_waiting_has_due"),
        "node_run",
        "(state IN ('retrying', 'deferred')) <= (resume_at IS NOT NULL)",
    )
    op.drop_index("ix_run_parent", "run")
    for table, columns in {
        "run": ("sub_depth", "parent_seq", "parent_map_index", "parent_node_no", "parent_run_id"),
        "node_run": ("resume_state", "map_failed", "map_success", "map_open", "item"),
        "version_node": ("max_parallel", "index_gated", "mapped"),
    }.items():
        for column in columns:
            op.drop_column(table, column)

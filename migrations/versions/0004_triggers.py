"""Event triggers, depends_on_past, consecutive failures

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


FALSE = sa.text("false")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.add_column("workflow", sa.Column("depends_on_past", sa.Boolean(), server_default=FALSE, nullable=False))
    op.add_column("workflow", sa.Column("max_consecutive_failures", sa.Integer(), nullable=True))
    op.add_column("workflow", sa.Column("pause_reason", sa.Text(), nullable=True))
    op.add_column("workflow", sa.Column("resumed_at", TIME, nullable=True))
    op.create_index(
        "ix_run_logical_date",
        "run",
        ["workflow_id", "logical_date"],
        postgresql_where=sa.text("logical_date IS NOT NULL"),
    )
    _fire_outcomes("refused", "run", "skipped")
    op.create_table(
        "event_source",
        sa.Column("trigger_id", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trigger_id"], ["trigger.id"], name=op.f("fk_event_source_trigger_id_trigger"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_event_source_workspace_id_workspace")
        ),
        sa.PrimaryKeyConstraint("trigger_id", "workflow", name=op.f("pk_event_source")),
    )
    op.create_index("ix_event_source_workflow", "event_source", ["workspace_id", "workflow"])
    op.create_table(
        "event_arrival",
        sa.Column("trigger_id", sa.BigInteger(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("run_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("chain_depth", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trigger_id"], ["trigger.id"], name=op.f("fk_event_arrival_trigger_id_trigger"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trigger_id", "workflow", name=op.f("pk_event_arrival")),
    )


def _fire_outcomes(*words: str) -> None:
    op.drop_constraint(op.f("ck_fire_outcome_known"), "fire")
    listed = ", ".join(f"'{word}'" for word in words)
    op.create_check_constraint(op.f("ck_fire_outcome_known"), "fire", f"outcome IN ({listed})")


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_table("event_arrival")
    op.drop_table("event_source")
    op.execute(sa.text("DELETE FROM fire WHERE outcome = 'refused'"))
    _fire_outcomes("run", "skipped")
    op.drop_index("ix_run_logical_date", "run")
    for column in ("resumed_at", "pause_reason", "max_consecutive_failures", "depends_on_past"):
        op.drop_column("workflow", column)

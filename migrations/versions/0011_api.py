"""What the API keeps: drafts, messages of versions, idempotency keys; the packed grid column of a run

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.add_column("workflow_version", sa.Column("message", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "workflow_draft",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("document", postgresql.JSON(), nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflow.id"], name=op.f("fk_workflow_draft_workflow_id_workflow"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_workflow_draft_workspace_id_workspace")
        ),
        sa.PrimaryKeyConstraint("workflow_id", name=op.f("pk_workflow_draft")),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("answer", postgresql.JSON(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_idempotency_key_workspace_id_workspace")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "actor", "key", name=op.f("pk_idempotency_key")),
    )
    op.create_index("ix_idempotency_key_created_at", "idempotency_key", ["created_at"])
    op.add_column("run", sa.Column("grid", sa.LargeBinary(), nullable=True))
    op.add_column("run", sa.Column("state_counts", postgresql.JSON(), nullable=True))
    op.execute(sa.text(f"CREATE INDEX ix_run_search ON run USING gin ({SEARCH})"))


#: As in the model: words of notes, and of keys and values of params.
SEARCH = """(to_tsvector('simple'::regconfig, note)
  || json_to_tsvector('simple'::regconfig, params, '["key", "string", "numeric"]'::jsonb))"""


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_index("ix_run_search", "run")
    op.drop_column("run", "state_counts")
    op.drop_column("run", "grid")
    op.drop_table("idempotency_key")
    op.drop_table("workflow_draft")
    op.drop_column("workflow_version", "message")

"""Secrets and connections

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    # Two new tables: their foreign keys take `workspace` for a moment, which nothing writes while it works.
    op.create_table(
        "secret",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_secret_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("workspace_id", "name", name=op.f("pk_secret")),
    )
    op.create_table(
        "connection",
        sa.Column("workspace_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("secret_fields", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "num_nulls(ciphertext, key_id, wrapped_key) IN (0, 3)", name=op.f("ck_connection_sealed_whole")
        ),
        sa.CheckConstraint(
            "(cardinality(secret_fields) > 0) = (ciphertext IS NOT NULL)",
            name=op.f("ck_connection_sealed_iff_secret_fields"),
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_connection_workspace_id_workspace")),
        sa.PrimaryKeyConstraint("workspace_id", "name", name=op.f("pk_connection")),
    )


def downgrade() -> None:
    op.drop_table("connection")
    op.drop_table("secret")

"""Outputs in the object store, and what is to be deleted there

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Catalog changes only: no partition is read. A scheduler of the release before takes a large output for null.
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.alter_column("output", "value", nullable=True)
    op.add_column("output", sa.Column("ref", sa.Text(), nullable=True))
    op.add_column("output", sa.Column("preview", sa.Text(), nullable=True))
    op.create_table(
        "object_trash",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_object_trash")),
    )


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_table("object_trash")
    # The objects stay in the store; to the release before, such an output is null.
    op.execute(sa.text("UPDATE output SET value = 'null' WHERE value IS NULL"))
    op.drop_column("output", "preview")
    op.drop_column("output", "ref")
    op.alter_column("output", "value", nullable=False)

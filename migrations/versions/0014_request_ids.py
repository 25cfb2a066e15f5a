"""Runs remember the request that made them

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A catalog change only: null for the runs there are, and no partition is read.
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.add_column("run", sa.Column("request_id", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_column("run", "request_id")

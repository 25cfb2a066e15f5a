"""Retry policy by error

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.add_column("version_node", sa.Column("retry_jitter", sa.Float(), server_default=sa.text("0"), nullable=False))
    for column in ("retry_on", "fail_on"):
        op.add_column("version_node", sa.Column(column, postgresql.ARRAY(sa.Text()), nullable=True))


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    for column in ("fail_on", "retry_on", "retry_jitter"):
        op.drop_column("version_node", column)

"""Backfills

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))

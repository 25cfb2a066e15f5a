"""Lists of runs: an index for each filter

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_run_workspace": ["workspace_id", "id"],
    "ix_run_workspace_state": ["workspace_id", "state", "id"],
    "ix_run_workspace_triggered_by": ["workspace_id", "triggered_by", "id"],
    "ix_run_workflow_state": ["workflow_id", "state", "id"],
}


def upgrade() -> None:
    # A second for each million runs, in which none can be created; node runs are not touched.
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    for name, columns in INDEXES.items():
        op.create_index(name, "run", columns)


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    for name in reversed(INDEXES):
        op.drop_index(name, "run")

"""Only scheduler and webserver may ask how busy a scheduler is

Changes no table: `agentflow db upgrade` brings the rights on the function to what agentflow.db.tenancy says.
"""

from __future__ import annotations

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing: see above."""


def downgrade() -> None:
    """Nothing: see above."""

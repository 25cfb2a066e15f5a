"""The webserver throws away objects of its workspace's runs only

Changes no table: `agentflow db upgrade` brings the policies to what agentflow.db.tenancy says.
A webserver of the code before notes a run's objects when the run is gone already, which is refused now: it answers 500 to
`DELETE /runs/{id}`. Replace webservers together with `agentflow db upgrade`.
"""

from __future__ import annotations

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing: see above."""


def downgrade() -> None:
    """Nothing: see above."""

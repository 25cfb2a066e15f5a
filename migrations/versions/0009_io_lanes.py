"""I/O lanes: dispatch groups of nodes that share processes

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0006"
branch_labels = None
depends_on = None

OLD = "uq_dispatch_group_workflow_id_pool_id_executor_queue_reserved_for"
NEW = "uq_dispatch_group_unit"
COLUMNS = ["workflow_id", "pool_id", "executor", "queue", "reserved_for"]


def upgrade() -> None:
    # Versions stored before keep their groups: their nodes take slots of processes until they are applied again.
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.add_column("dispatch_group", sa.Column("io", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.drop_constraint(op.f(OLD), "dispatch_group")
    op.create_unique_constraint(NEW, "dispatch_group", [*COLUMNS, "io"], postgresql_nulls_not_distinct=True)


def downgrade() -> None:
    op.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
    op.drop_constraint(NEW, "dispatch_group")
    # Two groups that differ in nothing else become one.
    op.execute(
        sa.text("""
        CREATE TEMPORARY TABLE merged ON COMMIT DROP AS SELECT g.id, o.id AS into_id FROM dispatch_group g
        JOIN dispatch_group o ON (o.workflow_id, o.pool_id, o.executor, o.queue)
            = (g.workflow_id, g.pool_id, g.executor, g.queue)
          AND o.reserved_for IS NOT DISTINCT FROM g.reserved_for AND g.io AND NOT o.io
    """)
    )
    op.execute(sa.text("UPDATE version_node SET group_id = m.into_id FROM merged m WHERE group_id = m.id"))
    op.execute(sa.text("UPDATE node_run SET group_id = m.into_id FROM merged m WHERE group_id = m.id"))
    op.execute(sa.text("DELETE FROM dispatch_group WHERE id IN (SELECT id FROM merged)"))
    op.drop_column("dispatch_group", "io")
    op.create_unique_constraint(op.f(OLD), "dispatch_group", COLUMNS, postgresql_nulls_not_distinct=True)

"""How busy a scheduler is, whoever keeps it busy: numbers that every workspace may know

Rule: this must work beside the code of the release before it (add first, remove one release later).
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With the rights of the owner of the tables, to whom the policies do not apply: it counts, and shows nothing.
    op.execute("""
        CREATE FUNCTION scheduler_load(scheduler uuid, OUT attempts int, OUT slots int)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
          WITH open AS MATERIALIZED (SELECT id FROM run WHERE state IN ('queued', 'running'))
          SELECT count(*)::int, (count(*) FILTER (WHERE NOT dg.io))::int
          FROM attempt a JOIN node_run nr ON nr.run_id = a.run_id AND nr.node_no = a.node_no AND nr.map_index = a.map_index
          JOIN dispatch_group dg ON dg.id = nr.group_id
          WHERE a.scheduler_id = scheduler_load.scheduler AND a.state IN ('queued', 'launching', 'running')
            AND a.run_id >= (SELECT id FROM open ORDER BY id LIMIT 1)
        $$""")


def downgrade() -> None:
    op.execute("DROP FUNCTION scheduler_load(uuid)")

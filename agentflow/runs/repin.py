"""Taking a run over to the newest version of its workflow, when the graph is the same."""

from __future__ import annotations

from sqlalchemy import Connection, text

from agentflow.catalog.graph import make_backfill_groups
from agentflow.db.queries.locks import LockedRun
from agentflow.errors import Conflict

_NEWEST = text("SELECT published_version_id AS id, published_version AS number FROM workflow WHERE id = :workflow")
#: Nodes with their numbers, whether they are mapped, and their upstreams: what node runs and counters rest on.
_SHAPE = text("""
SELECT vn.node_no, vn.node_id, vn.mapped, vn.type = 'workflow' AS sub_run, vn.type = 'branch' AS branch,
  ARRAY(SELECT up_no FROM version_edge e WHERE e.version_id = vn.version_id AND e.down_no = vn.node_no ORDER BY 1) AS ups
FROM version_node vn WHERE vn.version_id = :version ORDER BY vn.node_no
""")
_RUN = text("UPDATE run SET version_id = :new WHERE id = :run")
_NODE_RUNS = text("""
UPDATE node_run nr SET version_id = :new, group_id = coalesce(mine.id, vn.group_id), priority = vn.priority,
  pool_slots = vn.pool_slots
FROM version_node vn JOIN run r ON r.id = :run JOIN dispatch_group g ON g.id = vn.group_id
LEFT JOIN dispatch_group mine ON r.backfill_id IS NOT NULL AND mine.workflow_id = g.workflow_id
  AND mine.pool_id = g.pool_id AND mine.executor = g.executor AND mine.queue = g.queue AND mine.io = g.io
  AND mine.reserved_for IS NULL AND mine.backfill
WHERE nr.run_id = :run AND vn.version_id = :new AND vn.node_no = nr.node_no
""")


def repin_to_newest(connection: Connection, run: LockedRun) -> bool:
    """Move a locked run to its workflow's published version; whether that is another one.

    What has run keeps its results; what runs from now on follows the new version's config, code and policies.

    Raises:
        Conflict: The newest version has other nodes or edges: results of the old graph would mean something else.
    """
    newest = connection.execute(_NEWEST, {"workflow": run.workflow_id}).one_or_none()
    if newest is None or newest.id is None or newest.id == run.version_id:
        return False
    shapes = [
        [tuple(row) for row in connection.execute(_SHAPE, {"version": version})]
        for version in (run.version_id, newest.id)
    ]
    if shapes[0] != shapes[1]:
        raise Conflict(
            f"Version {newest.number} has other nodes or edges than the run's.",
            hint="start a new run of it: `agentflow runs rerun RUN_ID --newest`",
        )
    connection.execute(_RUN, {"run": run.id, "new": newest.id})
    make_backfill_groups(connection, newest.id)
    connection.execute(_NODE_RUNS, {"run": run.id, "new": newest.id})
    run.version_id = newest.id
    return True

"""Node runs whose time has come: retries, next turns of deferred attempts, cascades cut off in an earlier transaction."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.deferrals import TURN
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.settle import CASCADE, FinalNode, Settlement
from agentflow.states import NodeRunState

BATCH = 500

#: Sub-runs and waits begin on the evaluator's side.
_RELEASE = text(f"""
WITH due AS (
  SELECT run_id, node_no, map_index, state FROM node_run
  WHERE resume_at <= :now AND (state = 'retrying' OR (state = 'deferred' AND resume_key = '{TURN}'))
    AND run_id >= :oldest
  ORDER BY resume_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE node_run nr SET state = CASE WHEN again.begins THEN 'pending' ELSE 'ready' END,
  ready_at = CASE WHEN again.begins THEN nr.ready_at ELSE CAST(:now AS timestamptz) END,
  resume_at = CASE WHEN again.begins THEN CAST(:now AS timestamptz) END,
  resume_key = CASE WHEN nr.state = 'deferred' THEN nr.resume_key END
FROM due, version_node vn, LATERAL (SELECT due.state = 'retrying' AND vn.type IN ('workflow', 'wait') AS begins) AS again
WHERE nr.run_id = due.run_id AND nr.node_no = due.node_no AND nr.map_index = due.map_index
  AND vn.version_id = nr.version_id AND vn.node_no = nr.node_no
""")
_NEXT = text("""
SELECT min(resume_at) FROM node_run
WHERE resume_at IS NOT NULL AND state IN ('retrying', 'pending', 'deferred') AND run_id >= :oldest
""")


def release_due(connection: Connection, now: datetime, oldest: uuid.UUID) -> int:
    """Make node runs ready whose wait for the next attempt, or for the next turn of theirs, is over; how many."""
    return connection.execute(_RELEASE, {"now": now, "oldest": oldest, "limit": BATCH}).rowcount


def next_due(connection: Connection, oldest: uuid.UUID) -> datetime | None:
    """When the next node run comes due."""
    found = connection.scalar(_NEXT, {"oldest": oldest})
    return found if isinstance(found, datetime) else None


_CUT_OFF = text(f"""
WITH due AS MATERIALIZED (
  SELECT run_id, version_id, node_no, state FROM node_run
  WHERE resume_at <= :now AND resume_key = '{CASCADE}' AND map_index = {NOT_MAPPED} AND run_id >= :oldest
  ORDER BY resume_at LIMIT :limit
)
SELECT due.*, vn.is_leaf FROM due
JOIN version_node vn ON vn.version_id = due.version_id AND vn.node_no = due.node_no ORDER BY due.run_id, due.node_no
""")
_CLEAR_CUT = text(f"""
UPDATE node_run nr SET resume_at = NULL, resume_key = NULL
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[])) AS k(run_id, node_no)
WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = {NOT_MAPPED} AND nr.resume_key = '{CASCADE}'
RETURNING nr.run_id, nr.node_no
""")


def continue_cascades(connection: Connection, now: datetime, oldest: uuid.UUID) -> Settlement | None:
    """Carry on cascades of skipped and upstream_failed that were cut off; None when there are none."""
    rows = connection.execute(_CUT_OFF, {"now": now, "oldest": oldest, "limit": BATCH}).all()
    if not rows:
        return None
    settlement = Settlement(connection, lock_runs(connection, {row.run_id for row in rows}), now)
    keys = {"runs": uuids(row.run_id for row in rows), "nos": ints(row.node_no for row in rows)}
    # Another scheduler may have carried some on before the locks were held.
    mine = {(row.run_id, row.node_no) for row in connection.execute(_CLEAR_CUT, keys)}
    settlement.carry_on(
        [
            FinalNode(row.run_id, row.version_id, row.node_no, NodeRunState(row.state), row.is_leaf)
            for row in rows
            if (row.run_id, row.node_no) in mine
        ]
    )
    settlement.write()
    return settlement

"""Counters from states: what clear, mark and the consistency check rely on (ENGINE 3).

Each statement here begins after the runs' locks are held, so it sees what every earlier holder committed.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from agentflow.db.arrays import uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.locks import LockedRun
from agentflow.db.queries.mapped import recount_indexes
from agentflow.db.queries.settle import CASCADE, FinalNode, Settlement
from agentflow.rules import rule_sql
from agentflow.states import NODE_RUN_FINAL, NodeRunState

_OPEN = text("""
SELECT nr.run_id, count(*) FILTER (WHERE nr.finished_at IS NULL)::int AS open,
  count(*) FILTER (WHERE vn.is_leaf AND nr.map_index = -1 AND nr.state IN ('failed', 'upstream_failed'))::int AS failed_leaves
FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = ANY(CAST(:ids AS uuid[])) GROUP BY nr.run_id
""")


def recount_open(connection: Connection, runs: Sequence[LockedRun]) -> bool:
    """Set the runs' counters from their node runs' states; whether any was different."""
    by_id = {run.id: run for run in runs}
    changed = False
    for row in connection.execute(_OPEN, {"ids": uuids(by_id)}):
        run = by_id[row.run_id]
        changed |= (run.open_nodes, run.failed_leaves) != (row.open, row.failed_leaves)
        run.open_nodes, run.failed_leaves = row.open, row.failed_leaves
    return changed


#: A cascade that was cut off is not carried on: what it would add is in the new counts.
_STOP_CASCADES = text(f"""
UPDATE node_run SET resume_at = NULL, resume_key = NULL
WHERE run_id = ANY(CAST(:runs AS uuid[])) AND resume_at IS NOT NULL AND resume_key = '{CASCADE}'
""")
#: The planner's statistics do not know a new run: it takes the run for a row or two, and comparing all of its nodes with
#: each other for cheap. So OFFSET 0 keeps the order (edges by node, upstreams by key), and what is updated is joined by
#: its key alone: were the run named there, too, its nodes would be the few rows to begin with.
_UPSTREAMS = text(f"""
WITH counted AS MATERIALIZED (
  SELECT nr.run_id, nr.node_no, c.*
  FROM node_run nr CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE up.state = 'success')::int AS s,
      count(*) FILTER (WHERE up.state IN ('failed', 'cancelled'))::int AS f,
      count(*) FILTER (WHERE up.state = 'upstream_failed')::int AS u,
      count(*) FILTER (WHERE up.state = 'skipped')::int AS k
    FROM (SELECT up_no FROM version_edge WHERE version_id = nr.version_id AND down_no = nr.node_no OFFSET 0) AS e
    CROSS JOIN LATERAL (
      SELECT state FROM node_run WHERE run_id = nr.run_id AND node_no = e.up_no AND map_index = {NOT_MAPPED} OFFSET 0
    ) AS up
  ) AS c
  WHERE nr.run_id = ANY(CAST(:runs AS uuid[])) AND nr.map_index = {NOT_MAPPED}
    AND (nr.up_success, nr.up_failed, nr.up_upstream_failed, nr.up_skipped) IS DISTINCT FROM (c.s, c.f, c.u, c.k)
)
UPDATE node_run nr SET up_success = c.s, up_failed = c.f, up_upstream_failed = c.u, up_skipped = c.k
FROM counted c
WHERE nr.run_id = c.run_id AND nr.node_no = c.node_no AND nr.map_index = {NOT_MAPPED}
""")
_VERDICT = rule_sql(
    rule="vn.trigger_rule",
    n="nr.n_up",
    success="nr.up_success",
    failed="nr.up_failed",
    upstream_failed="nr.up_upstream_failed",
    skipped="nr.up_skipped",
)
#: Direct downstreams that a successful branch node left out are skipped, whatever their rule.
_DECIDE = text(f"""
WITH left_out AS (
  SELECT DISTINCT e.down_no FROM node_run b
  JOIN version_node bn ON bn.version_id = b.version_id AND bn.node_no = b.node_no AND bn.type = 'branch'
  JOIN output o ON o.run_id = b.run_id AND o.node_no = b.node_no AND o.map_index = {NOT_MAPPED} AND o.run_id = :run
  JOIN version_edge e ON e.version_id = b.version_id AND e.up_no = b.node_no
  JOIN version_node dn ON dn.version_id = b.version_id AND dn.node_no = e.down_no
  WHERE b.run_id = :run AND b.state = 'success'
    AND NOT (CAST(o.value AS jsonb) @> to_jsonb(ARRAY[dn.node_id]))
), v AS MATERIALIZED (
  SELECT nr.run_id, nr.node_no, vn.gated, vn.is_leaf,
    CASE WHEN nr.node_no IN (SELECT down_no FROM left_out) THEN 'skipped'
         WHEN vn.below_branch AND EXISTS (
           SELECT 1 FROM version_edge e
           JOIN version_node b ON b.version_id = e.version_id AND b.node_no = e.up_no AND b.type = 'branch'
           JOIN node_run bn ON bn.run_id = :run AND bn.node_no = e.up_no AND bn.map_index = {NOT_MAPPED}
           WHERE e.version_id = nr.version_id AND e.down_no = nr.node_no AND bn.finished_at IS NULL) THEN 'pending'
         ELSE {_VERDICT} END AS verdict
  FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
  WHERE nr.run_id = :run AND nr.map_index = {NOT_MAPPED} AND nr.state = 'pending' AND nr.resume_at IS NULL
)
UPDATE node_run nr SET
  state = CASE WHEN v.gated AND v.verdict = 'ready' THEN 'pending' ELSE v.verdict END,
  ready_at = CASE WHEN v.verdict = 'ready' AND NOT v.gated THEN CAST(:now AS timestamptz) ELSE nr.ready_at END,
  resume_at = CASE WHEN v.verdict = 'ready' AND v.gated THEN CAST(:now AS timestamptz) END,
  finished_at = CASE WHEN v.verdict IN ('skipped', 'upstream_failed') THEN CAST(:now AS timestamptz) END
FROM v WHERE nr.run_id = v.run_id AND nr.node_no = v.node_no AND nr.map_index = {NOT_MAPPED} AND v.verdict <> 'pending'
RETURNING nr.run_id, nr.version_id, nr.node_no, v.verdict, v.gated, v.is_leaf
""")


def recount_upstreams(connection: Connection, runs: Collection[uuid.UUID]) -> None:
    """Count afresh, for every node run of these runs, how its upstreams ended."""
    connection.execute(_STOP_CASCADES, {"runs": uuids(runs)})
    connection.execute(_UPSTREAMS, {"runs": uuids(runs)})


def recount_run(connection: Connection, settlement: Settlement, run_id: uuid.UUID) -> int:
    """Count upstreams afresh, decide every pending node of a run from them, and settle what became final.

    Returns:
        How many node runs were decided.
    """
    recount_upstreams(connection, [run_id])
    recount_open(connection, [settlement.runs[run_id]])
    rows = connection.execute(_DECIDE, {"run": run_id, "now": settlement.now}).all()
    finals = []
    for row in rows:
        state = NodeRunState(row.verdict)
        if state in NODE_RUN_FINAL:
            finals.append(FinalNode(run_id, row.version_id, row.node_no, state, row.is_leaf))
        else:
            settlement.made_due += row.gated
            settlement.made_ready += not row.gated
    settlement.settle(finals)
    # After the statement above: what follows from these is decided in memory, of which that would know nothing.
    settlement.carry_on(settlement.conclude(recount_indexes(connection, run_id)))
    return len(rows)

"""The downstreams of node runs that became final: locked, with what the rules need."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from agentflow.db.arrays import ints, uuids, words
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.statement import Statement
from agentflow.rules import Counts
from agentflow.states import NodeRunState, TriggerRule

if TYPE_CHECKING:
    from agentflow.db.queries.settle import FinalNode


@dataclass(slots=True)
class Downstream:
    """A locked node run that waits for upstreams, and how they ended so far."""

    run_id: uuid.UUID
    version_id: int
    node_no: int
    state: NodeRunState
    rule: TriggerRule
    gated: bool
    is_leaf: bool
    decided: bool  #: Its rule has been satisfied: it waits for its `when`.
    open_branches: frozenset[int]  #: Direct upstreams of type branch that have not ended: they may still leave it out.
    counts: Counts


#: Outcomes are grouped per downstream: two parents may end in one batch. Locked in key order, which is that of `d`; each is
#: looked up by its key, see `attempts`.
_LOCK = Statement(f"""
WITH d AS MATERIALIZED (
  SELECT f.run_id, f.version_id, e.down_no AS node_no,
    count(*) FILTER (WHERE f.state = 'success')::int AS success,
    count(*) FILTER (WHERE f.state IN ('failed', 'cancelled'))::int AS failed,
    count(*) FILTER (WHERE f.state = 'upstream_failed')::int AS upstream_failed,
    count(*) FILTER (WHERE f.state = 'skipped')::int AS skipped
  FROM unnest(CAST(:runs AS uuid[]), CAST(:versions AS bigint[]), CAST(:nos AS int[]), CAST(:states AS text[]))
    AS f(run_id, version_id, node_no, state)
  JOIN version_edge e ON e.version_id = f.version_id AND e.up_no = f.node_no
  GROUP BY f.run_id, f.version_id, e.down_no ORDER BY f.run_id, e.down_no
)
SELECT d.*, nr.state, nr.resume_at IS NOT NULL AS decided, nr.n_up, nr.up_success, nr.up_failed, nr.up_upstream_failed,
  nr.up_skipped, vn.trigger_rule, vn.gated, vn.is_leaf,
  CASE WHEN vn.below_branch THEN ARRAY(
    SELECT e.up_no FROM version_edge e
    JOIN version_node b ON b.version_id = e.version_id AND b.node_no = e.up_no AND b.type = 'branch'
    CROSS JOIN LATERAL (
      SELECT finished_at FROM node_run WHERE run_id = d.run_id AND node_no = e.up_no AND map_index = {NOT_MAPPED}
        AND run_id = ANY(CAST(:all_runs AS uuid[])) OFFSET 0
    ) AS bn
    WHERE e.version_id = d.version_id AND e.down_no = d.node_no AND bn.finished_at IS NULL
  ) END AS open_branches
FROM d
CROSS JOIN LATERAL (
  SELECT * FROM node_run WHERE run_id = d.run_id AND node_no = d.node_no AND map_index = {NOT_MAPPED}
    AND run_id = ANY(CAST(:all_runs AS uuid[])) FOR NO KEY UPDATE
) AS nr
CROSS JOIN LATERAL (
  SELECT * FROM version_node WHERE version_id = d.version_id AND node_no = d.node_no OFFSET 0
) AS vn
""")


def lock_downstreams(connection: Connection, finals: Sequence[FinalNode]) -> list[tuple[Downstream, Counts]]:
    """Lock the direct downstreams in key order; each as stored, with the outcomes that these finals add."""
    rows = _LOCK.run(
        connection,
        {
            "runs": uuids(node.run_id for node in finals),
            "versions": ints(node.version_id for node in finals),
            "nos": ints(node.node_no for node in finals),
            "states": words(node.state for node in finals),
            "all_runs": uuids({node.run_id for node in finals}),
        },
    )
    return [
        (
            Downstream(
                run_id=r.run_id,
                version_id=r.version_id,
                node_no=r.node_no,
                state=NodeRunState(r.state),
                rule=TriggerRule(r.trigger_rule),
                gated=r.gated,
                is_leaf=r.is_leaf,
                decided=r.decided,
                open_branches=frozenset(r.open_branches or ()),
                counts=Counts(r.n_up, r.up_success, r.up_failed, r.up_upstream_failed, r.up_skipped),
            ),
            Counts(r.n_up, r.success, r.failed, r.upstream_failed, r.skipped),
        )
        for r in rows
    ]

"""Mapped nodes: making a node run per item, and carrying their ends to the summary row (SEMANTICS section 1).

The summary (map_index -1) is `deferred` with MAP as its reason while indexes are open; its counters are changed only
under the run's lock. To downstreams the summary is the node.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import ONE_BY_ONE, ints, uuids, words
from agentflow.db.models.history import NOT_MAPPED
from agentflow.states import NodeRunState

if TYPE_CHECKING:
    from agentflow.db.queries.settle import FinalNode

MAP = "map"  #: `resume_key` of a summary row whose indexes are open.
MAX_ITEMS = 10_000

#: An index that ran before a clear of the whole node goes on counting attempts: numbers are never used again.
_EXPAND = text(f"""
INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up, ready_at,
  resume_at, item, attempt)
SELECT s.run_id, s.node_no, i.no - 1, s.version_id, s.group_id,
  CASE WHEN NOT vn.index_gated AND i.no <= released.n THEN 'ready' ELSE 'pending' END, s.priority, s.pool_slots, 0,
  CASE WHEN NOT vn.index_gated AND i.no <= released.n THEN CAST(:now AS timestamptz) END,
  CASE WHEN vn.index_gated AND i.no <= released.n THEN CAST(:now AS timestamptz) END, i.value,
  CASE WHEN again.yes THEN coalesce((SELECT max(a.attempt) FROM attempt a
    WHERE a.run_id = s.run_id AND a.node_no = s.node_no AND a.map_index = i.no - 1 AND a.run_id = :run), 0) ELSE 0 END
FROM node_run s
JOIN version_node vn ON vn.version_id = s.version_id AND vn.node_no = s.node_no
CROSS JOIN LATERAL (SELECT coalesce(vn.max_parallel, {MAX_ITEMS}) AS n) AS released
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM attempt a
  WHERE a.run_id = s.run_id AND a.node_no = s.node_no AND a.map_index >= 0 AND a.run_id = :run) AS yes) AS again
CROSS JOIN LATERAL json_array_elements(CAST(:items AS json)) WITH ORDINALITY AS i(value, no)
WHERE s.run_id = :run AND s.node_no = :node AND s.map_index = {NOT_MAPPED}
""")
_OPENED = text(f"""
UPDATE node_run SET map_open = :items, map_success = 0, map_failed = 0
WHERE run_id = :run AND node_no = :node AND map_index = {NOT_MAPPED}
""")
_GREW = text("UPDATE run SET total_nodes = total_nodes + :items WHERE id = :run")


def expand(connection: Connection, run_id: uuid.UUID, node_no: int, items: str, count: int, now: datetime) -> None:
    """Make a node run per item of a summary that has just become `deferred`; the caller holds the run's lock.

    Args:
        connection: In a transaction.
        run_id: The run.
        node_no: The mapped node.
        items: A JSON array as text.
        count: Its length; the caller adds it to the run's open nodes.
        now: The transaction's time.
    """
    key = {"run": run_id, "node": node_no}
    connection.execute(_EXPAND, key | {"items": items, "now": now})
    connection.execute(_OPENED, key | {"items": count})
    connection.execute(_GREW, {"run": run_id, "items": count})


@dataclass(frozen=True, slots=True)
class Summary:
    """A mapped node's summary after some of its indexes have ended."""

    run_id: uuid.UUID
    version_id: int
    node_no: int
    is_leaf: bool
    open: int
    success: int
    failed: int
    max_parallel: int | None
    ended: int  #: Indexes that ended just now.

    def state(self) -> NodeRunState | None:
        """Its final state; None while indexes are open."""
        return summary_state(self.open, self.success, self.failed)


def summary_state(still_open: int, success: int, failed: int) -> NodeRunState | None:
    """Failed if any index failed, success if any succeeded, else skipped; None while some are open."""
    if still_open > 0:
        return None
    if failed > 0:
        return NodeRunState.FAILED
    return NodeRunState.SUCCESS if success > 0 else NodeRunState.SKIPPED


_COUNT = text(f"""
WITH f AS (
  SELECT run_id, node_no, count(*)::int AS ended, count(*) FILTER (WHERE state = 'success')::int AS success,
    count(*) FILTER (WHERE state IN ('failed', 'upstream_failed', 'cancelled'))::int AS failed
  FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:states AS text[])) AS t(run_id, node_no, state)
  GROUP BY run_id, node_no {ONE_BY_ONE}
), n AS (
  UPDATE node_run nr SET map_open = nr.map_open - f.ended, map_success = nr.map_success + f.success,
    map_failed = nr.map_failed + f.failed
  FROM f WHERE nr.run_id = f.run_id AND nr.node_no = f.node_no AND nr.map_index = {NOT_MAPPED}
    AND nr.state = 'deferred' AND nr.resume_key = '{MAP}' AND nr.run_id = ANY(CAST(:runs AS uuid[]))
  RETURNING nr.run_id, nr.version_id, nr.node_no, nr.map_open, nr.map_success, nr.map_failed, f.ended
)
SELECT n.*, vn.is_leaf, vn.max_parallel
FROM n JOIN version_node vn ON vn.version_id = n.version_id AND vn.node_no = n.node_no
""")


def count_indexes(connection: Connection, ended: Sequence[FinalNode]) -> list[Summary]:
    """Add ended indexes to their summaries; those of cancelled nodes have none that is open."""
    rows = connection.execute(
        _COUNT,
        {
            "runs": uuids(node.run_id for node in ended),
            "nos": ints(node.node_no for node in ended),
            "states": words(node.state for node in ended),
        },
    )
    return [_summary(row) for row in rows]


#: As many as ended may follow: `max_parallel` are under way at any time. Taken in index order.
_RELEASE = text("""
UPDATE node_run nr SET
  state = CASE WHEN vn.index_gated THEN 'pending' ELSE 'ready' END,
  ready_at = CASE WHEN vn.index_gated THEN nr.ready_at ELSE CAST(:now AS timestamptz) END,
  resume_at = CASE WHEN vn.index_gated THEN CAST(:now AS timestamptz) END
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:counts AS int[])) AS k(run_id, node_no, n),
LATERAL (
  SELECT w.run_id, w.node_no, w.map_index, w.version_id FROM node_run w
  WHERE w.run_id = k.run_id AND w.node_no = k.node_no AND w.map_index >= 0
    AND w.state = 'pending' AND w.resume_at IS NULL
  ORDER BY w.map_index LIMIT k.n
) AS w, version_node vn
WHERE nr.run_id = w.run_id AND nr.node_no = w.node_no AND nr.map_index = w.map_index
  AND vn.version_id = w.version_id AND vn.node_no = w.node_no
RETURNING vn.index_gated
""")


def release_indexes(connection: Connection, summaries: Collection[Summary], now: datetime) -> tuple[int, int]:
    """Let waiting indexes follow those that ended; how many became ready, and how many are due for the evaluator."""
    limited = [one for one in summaries if one.max_parallel is not None and one.open > 0]
    if not limited:
        return 0, 0
    rows = connection.execute(
        _RELEASE,
        {
            "runs": uuids(one.run_id for one in limited),
            "nos": ints(one.node_no for one in limited),
            "counts": ints(one.ended for one in limited),
            "now": now,
        },
    ).all()
    due = sum(row.index_gated for row in rows)
    return len(rows) - due, due


#: Their node waits for them again: its summary is open, whatever it was.
_REOPEN = text(f"""
WITH k AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:nos AS int[]), CAST(:maps AS int[])) AS t(node_no, map_index)
), o AS (
  DELETE FROM output USING k
  WHERE output.run_id = :run AND output.node_no = k.node_no AND output.map_index = k.map_index
), a AS (
  UPDATE attempt SET state = 'cancelled', finished_at = :now FROM k
  WHERE attempt.run_id = :run AND attempt.node_no = k.node_no AND attempt.map_index = k.map_index
    AND attempt.finished_at IS NULL
), s AS (
  UPDATE node_run SET state = 'deferred', resume_key = '{MAP}', resume_at = NULL, finished_at = NULL, error = NULL
  WHERE run_id = :run AND map_index = {NOT_MAPPED} AND node_no IN (SELECT node_no FROM k)
)
UPDATE node_run nr SET state = 'pending', finished_at = NULL, started_at = NULL, queued_at = NULL, ready_at = NULL,
  resume_at = NULL, resume_key = NULL, resume_state = NULL, failures = 0, losses = 0, error = NULL
FROM k WHERE nr.run_id = :run AND nr.node_no = k.node_no AND nr.map_index = k.map_index
""")
_UNDER_WAY = text("""
SELECT nr.node_no, nr.version_id, vn.is_leaf, coalesce(vn.max_parallel, :most) AS most,
  count(*) FILTER (WHERE nr.finished_at IS NULL AND (nr.state <> 'pending' OR nr.resume_at IS NOT NULL))::int AS under_way,
  count(*) FILTER (WHERE nr.finished_at IS NULL)::int AS open
FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = :run AND nr.map_index >= 0 AND nr.node_no = ANY(CAST(:nos AS int[]))
GROUP BY nr.node_no, nr.version_id, vn.is_leaf, vn.max_parallel
""")


def reopen_indexes(
    connection: Connection, run_id: uuid.UUID, indexes: Sequence[tuple[int, int]], now: datetime
) -> tuple[int, int]:
    """Let single indexes begin again, as `(node number, index)`; the caller holds the run's lock and recounts it.

    Returns:
        How many became ready, and how many are due for the evaluator; `max_parallel` may hold back the others.
    """
    if not indexes:
        return 0, 0
    nos = ints(node for node, _ in indexes)
    connection.execute(_REOPEN, {"run": run_id, "nos": nos, "maps": ints(index for _, index in indexes), "now": now})
    rows = connection.execute(_UNDER_WAY, {"run": run_id, "nos": nos, "most": MAX_ITEMS})
    return release_indexes(
        connection,
        [
            Summary(
                run_id, row.version_id, row.node_no, row.is_leaf, row.open, 0, 0, row.most, row.most - row.under_way
            )
            for row in rows
            if row.most > row.under_way
        ],
        now,
    )


_RECOUNT = text(f"""
WITH c AS MATERIALIZED (
  SELECT s.run_id, s.node_no, s.version_id, i.*
  FROM node_run s CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE i.finished_at IS NULL)::int AS map_open,
      count(*) FILTER (WHERE i.state = 'success')::int AS map_success,
      count(*) FILTER (WHERE i.state IN ('failed', 'upstream_failed', 'cancelled'))::int AS map_failed
    FROM node_run i WHERE i.run_id = s.run_id AND i.node_no = s.node_no AND i.map_index >= 0
  ) AS i
  WHERE s.run_id = :run AND s.map_index = {NOT_MAPPED} AND s.state = 'deferred' AND s.resume_key = '{MAP}'
)
UPDATE node_run nr SET map_open = c.map_open, map_success = c.map_success, map_failed = c.map_failed
FROM c JOIN version_node vn ON vn.version_id = c.version_id AND vn.node_no = c.node_no
WHERE nr.run_id = c.run_id AND nr.node_no = c.node_no AND nr.map_index = {NOT_MAPPED}
RETURNING nr.run_id, nr.version_id, nr.node_no, vn.is_leaf, nr.map_open, nr.map_success, nr.map_failed, vn.max_parallel,
  0 AS ended
""")


def recount_indexes(connection: Connection, run_id: uuid.UUID) -> list[Summary]:
    """Count the indexes of every open summary of a run afresh; the caller holds the run's lock."""
    return [_summary(row) for row in connection.execute(_RECOUNT, {"run": run_id})]


def _summary(row: Any) -> Summary:
    return Summary(
        run_id=row.run_id,
        version_id=row.version_id,
        node_no=row.node_no,
        is_leaf=row.is_leaf,
        open=row.map_open,
        success=row.map_success,
        failed=row.map_failed,
        max_parallel=row.max_parallel,
        ended=row.ended,
    )

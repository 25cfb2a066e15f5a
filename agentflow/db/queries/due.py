"""Node runs whose time has come: retries, evaluations, cascades cut off in an earlier transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.settle import CASCADE, FinalNode, Settlement
from agentflow.states import NodeRunState

BATCH = 500

_RELEASE = text("""
WITH due AS (
  SELECT run_id, node_no, map_index FROM node_run
  WHERE resume_at <= :now AND state = 'retrying' AND run_id >= :oldest
  ORDER BY resume_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE node_run nr SET state = 'ready', ready_at = :now, resume_at = NULL, resume_key = NULL
FROM due WHERE nr.run_id = due.run_id AND nr.node_no = due.node_no AND nr.map_index = due.map_index
""")
_NEXT = text("""
SELECT min(resume_at) FROM node_run
WHERE resume_at IS NOT NULL AND state IN ('retrying', 'pending', 'deferred') AND run_id >= :oldest
""")


def release_retries(connection: Connection, now: datetime, oldest: uuid.UUID) -> int:
    """Make node runs ready whose wait for the next attempt is over; how many."""
    return connection.execute(_RELEASE, {"now": now, "oldest": oldest, "limit": BATCH}).rowcount


def next_due(connection: Connection, oldest: uuid.UUID) -> datetime | None:
    """When the next node run comes due."""
    found = connection.scalar(_NEXT, {"oldest": oldest})
    return found if isinstance(found, datetime) else None


@dataclass(frozen=True, slots=True)
class DueGate:
    """A node whose rule is satisfied and whose `when` is to be evaluated; leased until `leased_until`."""

    run_id: uuid.UUID
    node_no: int
    map_index: int
    version_id: int
    leased_until: datetime


GATE_LEASE = timedelta(seconds=30)  #: Another scheduler evaluates again after this.

_LEASE = text("""
WITH due AS (
  SELECT nr.run_id, nr.node_no, nr.map_index FROM node_run nr JOIN run r ON r.id = nr.run_id
  WHERE nr.resume_at <= :now AND nr.state = 'pending' AND nr.run_id >= :oldest
    AND (r.reserved_for = :me OR (r.reserved_for IS NULL AND NOT :reserved_only))
  ORDER BY nr.resume_at LIMIT :limit FOR NO KEY UPDATE OF nr SKIP LOCKED
)
UPDATE node_run nr SET resume_at = :until
FROM due WHERE nr.run_id = due.run_id AND nr.node_no = due.node_no AND nr.map_index = due.map_index
RETURNING nr.run_id, nr.node_no, nr.map_index, nr.version_id
""")


def lease_gates(
    connection: Connection, *, me: uuid.UUID, reserved_only: bool, oldest: uuid.UUID, limit: int = BATCH
) -> list[DueGate]:
    """Take nodes to evaluate, so that no other scheduler does for a while."""
    now = database_now(connection)
    until = now + GATE_LEASE
    rows = connection.execute(
        _LEASE, {"now": now, "until": until, "oldest": oldest, "me": me, "reserved_only": reserved_only, "limit": limit}
    )
    return [DueGate(row.run_id, row.node_no, row.map_index, row.version_id, until) for row in rows]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the evaluator said: ready, skipped or failed (with the error as JSON text)."""

    gate: DueGate
    state: NodeRunState
    error: str | None = None


_APPLY_GATES = text("""
UPDATE node_run nr SET state = k.state, resume_at = NULL, error = CAST(k.error AS json),
  ready_at = CASE WHEN k.state = 'ready' THEN CAST(:now AS timestamptz) ELSE nr.ready_at END,
  finished_at = CASE WHEN k.state <> 'ready' THEN CAST(:now AS timestamptz) END
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:states AS text[]),
  CAST(:errors AS text[]), CAST(:leases AS timestamptz[])) AS k(run_id, node_no, map_index, state, error, leased_until),
  version_node vn
WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND vn.version_id = nr.version_id AND vn.node_no = nr.node_no
  AND nr.state = 'pending' AND nr.resume_at = k.leased_until AND nr.run_id = ANY(CAST(:runs AS uuid[]))
RETURNING nr.run_id, nr.version_id, nr.node_no, nr.map_index, nr.state, vn.is_leaf
""")


def apply_gates(connection: Connection, results: Sequence[GateResult]) -> Settlement:
    """Store what the evaluator said, unless the node was cancelled, cleared or leased again meanwhile."""
    runs = lock_runs(connection, {result.gate.run_id for result in results})
    settlement = Settlement(connection, runs, database_now(connection))
    ordered = sorted(results, key=lambda r: (r.gate.run_id.int, r.gate.node_no, r.gate.map_index))
    rows = connection.execute(
        _APPLY_GATES,
        {
            "runs": uuids(r.gate.run_id for r in ordered),
            "nos": ints(r.gate.node_no for r in ordered),
            "maps": ints(r.gate.map_index for r in ordered),
            "states": [r.state.value for r in ordered],
            "errors": [r.error for r in ordered],
            "leases": [r.gate.leased_until for r in ordered],
            "now": settlement.now,
        },
    ).all()
    finals = []
    for row in rows:
        if row.state == NodeRunState.READY:
            settlement.made_ready += 1
        else:
            state = NodeRunState(row.state)
            finals.append(FinalNode(row.run_id, row.version_id, row.node_no, state, row.is_leaf, row.map_index))
    settlement.settle(finals)
    settlement.write(wake=settlement.made_ready > 0)
    return settlement


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

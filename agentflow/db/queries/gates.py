"""Node runs that the scheduler's own expressions decide: leasing them, and storing what was decided."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import ONE_BY_ONE, ints, uuids
from agentflow.db.queries.attempts import AttemptKey
from agentflow.db.queries.locks import database_now
from agentflow.db.queries.mapped import MAP
from agentflow.states import NodeRunState

BATCH = 500
LEASE = timedelta(seconds=30)  #: Another scheduler decides again after this.
WAIT = "wait"  #: `resume_key` of a node run that waits for a time, or for the end of a run that it does not own.
SUB_RUN = "subrun"  #: `resume_key` of a node run whose sub-run is under way, or has ended when it is due.


@dataclass(frozen=True, slots=True)
class DueGate:
    """A node run to decide: its rule is satisfied, or what it waited for may have come. Leased until `leased_until`."""

    run_id: uuid.UUID
    node_no: int
    map_index: int
    version_id: int
    leased_until: datetime
    attempt: int = 0  #: Number of its newest attempt.
    sub_run: dict[str, Any] | None = None  #: `{run, round}` of a sub-run that has ended.
    waiting: dict[str, Any] | None = None  #: What a wait left at its beginning.
    started_at: datetime | None = None  #: Of that attempt, if it began on the evaluator's side.

    @property
    def attempt_key(self) -> AttemptKey:
        """Of its newest attempt."""
        return (self.run_id, self.node_no, self.map_index, self.attempt)


#: The index of what is due comes first, whatever the statistics say, and each run is looked up: beginning with the runs
#: is beginning with all history. So no bound of run ids here, either, by which the primary key could be walked.
_LEASE = text(f"""
WITH due AS (
  SELECT nr.run_id, nr.node_no, nr.map_index FROM node_run nr
  CROSS JOIN LATERAL (SELECT reserved_for FROM run WHERE id = nr.run_id OFFSET 0) AS r
  WHERE nr.resume_at <= :now
    AND (nr.state = 'pending' OR (nr.state = 'deferred' AND nr.resume_key IN ('{SUB_RUN}', '{WAIT}')))
    AND (r.reserved_for = :me OR (r.reserved_for IS NULL AND NOT :reserved_only))
  ORDER BY nr.resume_at LIMIT :limit FOR NO KEY UPDATE OF nr SKIP LOCKED
)
UPDATE node_run nr SET resume_at = :until
FROM due WHERE nr.run_id = due.run_id AND nr.node_no = due.node_no AND nr.map_index = due.map_index
RETURNING nr.run_id, nr.node_no, nr.map_index, nr.version_id, nr.attempt,
  CASE WHEN nr.state = 'deferred' AND nr.resume_key = '{SUB_RUN}' THEN nr.resume_state END AS sub_run,
  CASE WHEN nr.state = 'deferred' AND nr.resume_key = '{WAIT}' THEN nr.resume_state END AS waiting, nr.started_at
""")


def lease_gates(connection: Connection, *, me: uuid.UUID, reserved_only: bool, limit: int = BATCH) -> list[DueGate]:
    """Take nodes to decide, so that no other scheduler does for a while."""
    now = database_now(connection)
    until = now + LEASE
    rows = connection.execute(
        _LEASE, {"now": now, "until": until, "me": me, "reserved_only": reserved_only, "limit": limit}
    )
    return [DueGate(row.run_id, row.node_no, row.map_index, row.version_id, until, *row[4:]) for row in rows]


@dataclass(frozen=True, slots=True)
class Child:
    """The sub-run that a node starts."""

    workflow_id: int
    version_id: int
    params: dict[str, Any]
    round: int = 0
    timeout: float | None = None  #: Seconds of the attempt that starts it, all its rounds together.


@dataclass(frozen=True, slots=True)
class WaitPlan:
    """A wait for a time (`seconds` or `until`) or a run (`awaited`)."""

    timeout: float | None  #: Seconds after which it gives up,
    soft_fail: bool  #: by skipping the node.
    limit: float | None  #: Seconds of the attempt's own timeout, which always fails.
    seconds: float | None = None
    until: datetime | None = None
    awaited: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What was decided about a node: ready, a final state, or `deferred` with what it waits for."""

    gate: DueGate
    state: NodeRunState
    error: str | None = None  #: JSON text.
    output: str | None = None  #: JSON text, of a branch or an ended sub-run.
    items: str | None = None  #: JSON array as text: one node run per element.
    count: int = 0  #: Of the items.
    child: Child | None = None  #: To start.
    wait: WaitPlan | None = None  #: To begin.


_STORE = text(f"""
UPDATE node_run nr SET state = k.state, resume_at = NULL, resume_key = k.key, error = CAST(k.error AS json),
  resume_state = NULL,
  ready_at = CASE WHEN k.state = 'ready' THEN CAST(:now AS timestamptz) ELSE nr.ready_at END,
  started_at = CASE WHEN k.state = 'success' THEN CAST(:now AS timestamptz) ELSE nr.started_at END,
  finished_at = CASE WHEN k.state NOT IN ('ready', 'deferred') THEN CAST(:now AS timestamptz) END
FROM (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:states AS text[]),
    CAST(:keys AS text[]), CAST(:errors AS text[]), CAST(:leases AS timestamptz[]))
    AS t(run_id, node_no, map_index, state, key, error, leased_until)
  {ONE_BY_ONE}
) AS k, version_node vn
WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND vn.version_id = nr.version_id AND vn.node_no = nr.node_no
  AND nr.state = 'pending' AND nr.resume_at = k.leased_until AND nr.run_id = ANY(CAST(:runs AS uuid[]))
RETURNING nr.run_id, nr.version_id, nr.node_no, nr.map_index, nr.state, vn.is_leaf, vn.node_id
""")
_OUTPUT = text("""
INSERT INTO output (run_id, node_no, map_index, value, bytes)
VALUES (:run, :node, :map, CAST(CAST(:value AS text) AS json), octet_length(CAST(:value AS text)))
ON CONFLICT (run_id, node_no, map_index) DO UPDATE SET value = excluded.value, bytes = excluded.bytes,
  ref = NULL, preview = NULL
""")


def store_gates(connection: Connection, results: Sequence[GateResult], now: datetime) -> list[Any]:
    """Move pending nodes as decided, unless they were cancelled, cleared or leased again; rows of those that moved.

    The caller holds the runs' locks.
    """
    ordered = sorted(results, key=lambda r: (r.gate.run_id.int, r.gate.node_no, r.gate.map_index))
    return list(
        connection.execute(
            _STORE,
            {
                "runs": uuids(r.gate.run_id for r in ordered),
                "nos": ints(r.gate.node_no for r in ordered),
                "maps": ints(r.gate.map_index for r in ordered),
                "states": [r.state.value for r in ordered],
                "keys": [_key(r) for r in ordered],
                "errors": [r.error for r in ordered],
                "leases": [r.gate.leased_until for r in ordered],
                "now": now,
            },
        )
    )


def _key(result: GateResult) -> str | None:
    if result.child is not None:
        return SUB_RUN
    if result.wait is not None:
        return WAIT
    return MAP if result.items is not None else None


def store_output(connection: Connection, run_id: uuid.UUID, node_no: int, map_index: int, value: str) -> None:
    """Keep the output of a node that no executor ran."""
    connection.execute(_OUTPUT, {"run": run_id, "node": node_no, "map": map_index, "value": value})


_KEEP = text("""
UPDATE node_run SET resume_at = NULL
WHERE run_id = :run AND node_no = :node AND map_index = :map AND state = 'deferred' AND resume_at = :lease
RETURNING run_id
""")


def take_ended(connection: Connection, gate: DueGate) -> bool:
    """Whether an ended sub-run's node is still ours to decide; it then waits for nothing until it is moved."""
    key = {"run": gate.run_id, "node": gate.node_no, "map": gate.map_index, "lease": gate.leased_until}
    return connection.execute(_KEEP, key).one_or_none() is not None


_WAIT_ON = text("""
UPDATE node_run SET resume_at = :until WHERE run_id = :run AND node_no = :node AND map_index = :map
""")


def wait_on(connection: Connection, gate: DueGate, until: datetime) -> None:
    """Let a node that `take_ended` has taken come up again at a time."""
    key = {"run": gate.run_id, "node": gate.node_no, "map": gate.map_index}
    connection.execute(_WAIT_ON, key | {"until": until})


_ITEMS = text("""
SELECT nr.run_id, nr.node_no, nr.map_index, nr.item
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[])) AS k(run_id, node_no, map_index)
CROSS JOIN LATERAL (
  SELECT * FROM node_run WHERE run_id = k.run_id AND node_no = k.node_no AND map_index = k.map_index
    AND run_id = ANY(CAST(:runs AS uuid[])) OFFSET 0
) AS nr
""")


def items_of(
    connection: Connection, keys: Sequence[tuple[uuid.UUID, int, int]]
) -> dict[tuple[uuid.UUID, int, int], Any]:
    """The elements that these indexes of mapped nodes stand for."""
    rows = connection.execute(
        _ITEMS, {"runs": uuids(k[0] for k in keys), "nos": ints(k[1] for k in keys), "maps": ints(k[2] for k in keys)}
    )
    return {(row.run_id, row.node_no, row.map_index): row.item for row in rows}

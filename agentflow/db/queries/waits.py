"""Node runs that wait for a time or a run: beginning, going on, taking them to end them; all in batches."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from agentflow.db.arrays import ONE_BY_ONE, blobs, ints, times, uuids
from agentflow.db.queries.attempts import AttemptKey, token_hash
from agentflow.db.queries.gates import DueGate, WaitPlan

_NOBODY = uuid.UUID(int=0)

#: The attempt is opened deferred: no executor and no scheduler ever holds it. `awaited` is the key in `run_waiter`.
_BEGIN = text(f"""
WITH k AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
    CAST(:dues AS timestamptz[]), CAST(:states AS text[]), CAST(:awaited AS uuid[]), CAST(:hashes AS bytea[]))
    AS t(run_id, node_no, map_index, attempt, due, left_behind, awaited, token_hash)
  {ONE_BY_ONE}
), a AS (
  INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at,
    started_at)
  SELECT run_id, node_no, map_index, attempt, 'deferred', token_hash, '', :nobody, :now, :now FROM k
), w AS (
  INSERT INTO run_waiter (awaited_run_id, run_id, node_no, map_index)
  SELECT awaited, run_id, node_no, map_index FROM k WHERE awaited IS NOT NULL ON CONFLICT DO NOTHING
)
UPDATE node_run nr SET attempt = k.attempt, queued_at = :now, started_at = :now, resume_at = k.due,
  resume_state = CAST(k.left_behind AS json)
FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
""")


def begin_waits(connection: Connection, waits: Sequence[tuple[DueGate, WaitPlan]], now: datetime) -> list[datetime]:
    """Open the next attempt of nodes that have just become deferred; returns when each is due."""
    dues = [_first_due(plan, now) for _, plan in waits]
    keys = [(plan.awaited or {}).get("key") for _, plan in waits]
    connection.execute(
        _BEGIN,
        {
            **_places([gate for gate, _ in waits]),
            "attempts": ints(gate.attempt + 1 for gate, _ in waits),
            "dues": times(dues),
            "states": [json.dumps(_left_behind(plan, now)) for _, plan in waits],
            "awaited": uuids(None if key is None else uuid.UUID(key) for key in keys),
            "hashes": blobs(token_hash(secrets.token_hex(16)) for _ in waits),
            "nobody": _NOBODY,
            "now": now,
        },
    )
    return dues


def _target(plan: WaitPlan, now: datetime) -> datetime:
    """When a time has come; a run is looked at once this is committed."""
    if plan.until is not None:
        return plan.until
    return now + timedelta(seconds=plan.seconds or 0.0)


def _first_due(plan: WaitPlan, now: datetime) -> datetime:
    ends = [now + timedelta(seconds=limit) for limit in (plan.limit, plan.timeout) if limit is not None]
    return max(now, min([_target(plan, now), *ends]))


def _left_behind(plan: WaitPlan, now: datetime) -> dict[str, object]:
    return {
        "began": now.timestamp(),
        "due": _target(plan, now).timestamp(),
        "awaited": plan.awaited,
        "timeout": plan.timeout,
        "soft_fail": plan.soft_fail,
        "limit": plan.limit,
    }


_ON = text(f"""
UPDATE node_run nr SET resume_at = k.due
FROM (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:leases AS timestamptz[]),
    CAST(:dues AS timestamptz[])) AS t(run_id, node_no, map_index, lease, due)
  {ONE_BY_ONE}
) AS k
WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.state = 'deferred' AND nr.resume_at = k.lease
""")
_TAKE = text(f"""
WITH k AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:leases AS timestamptz[]),
    CAST(:awaited AS uuid[])) AS t(run_id, node_no, map_index, lease, awaited)
  {ONE_BY_ONE}
), w AS (
  DELETE FROM run_waiter USING k WHERE run_waiter.awaited_run_id = k.awaited AND run_waiter.run_id = k.run_id
    AND run_waiter.node_no = k.node_no AND run_waiter.map_index = k.map_index
)
UPDATE node_run nr SET resume_at = NULL FROM k
WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.state = 'deferred' AND nr.resume_at = k.lease
RETURNING nr.run_id, nr.node_no, nr.map_index, nr.attempt
""")


def wait_on(connection: Connection, gates: Sequence[DueGate], dues: Sequence[datetime]) -> None:
    """Let leased waits go on until these times; those that were told, cancelled or cleared meanwhile stay as they are."""
    if gates:
        parameters = {"leases": times(gate.leased_until for gate in gates), "dues": times(dues)}
        connection.execute(_ON, _places(gates) | parameters)


def take_waits(connection: Connection, gates: Sequence[DueGate]) -> set[AttemptKey]:
    """Which leased waits are still ours to end; their keys wait for nothing until they are moved."""
    if not gates:
        return set()
    keys = [((gate.waiting or {}).get("awaited") or {}).get("key") for gate in gates]
    awaited = uuids(None if key is None else uuid.UUID(key) for key in keys)
    parameters = {"leases": times(gate.leased_until for gate in gates), "awaited": awaited}
    rows = connection.execute(_TAKE, _places(gates) | parameters)
    return {(row.run_id, row.node_no, row.map_index, row.attempt) for row in rows}


def _places(gates: Sequence[DueGate]) -> dict[str, object]:
    return {
        "runs": uuids(gate.run_id for gate in gates),
        "nos": ints(gate.node_no for gate in gates),
        "maps": ints(gate.map_index for gate in gates),
    }

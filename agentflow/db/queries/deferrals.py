"""Attempts that wait without a slot: what they left, when they are due, and where they go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from agentflow.db.arrays import ONE_BY_ONE, ints, times, uuids
from agentflow.db.queries.attempts import AttemptKey
from agentflow.db.statement import Statement
from agentflow.workload import Deferral, Turn

TURN = "turn"  #: `resume_key` of a node run whose attempt gets another turn on an executor when it is due.


@dataclass(frozen=True, slots=True)
class Deferred:
    """An attempt that goes on later."""

    key: AttemptKey
    started_at: datetime | None  #: Of this turn; the attempt keeps that of its first.
    resume_at: datetime
    deferral: Deferral


#: `began` is the first turn's beginning: of the attempt, or of the lost one that this attempt carries on. A turn that
#: came to its end also proves that the infrastructure works: losses are counted afresh, or a wait of weeks would fail
#: after its fifth restart of a scheduler.
_DEFER = Statement(f"""
WITH k AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
    CAST(:starts AS timestamptz[]), CAST(:resumes AS timestamptz[]), CAST(:states AS text[]))
    AS t(run_id, node_no, map_index, attempt, started_at, resume_at, left_behind)
  {ONE_BY_ONE}
), a AS (
  UPDATE attempt SET state = 'deferred', started_at = coalesce(attempt.started_at, k.started_at, CAST(:now AS timestamptz))
  FROM k WHERE attempt.run_id = k.run_id AND attempt.node_no = k.node_no AND attempt.map_index = k.map_index
    AND attempt.attempt = k.attempt AND attempt.run_id = ANY(CAST(:all_runs AS uuid[]))
)
UPDATE node_run nr SET state = 'deferred', resume_at = k.resume_at, resume_key = '{TURN}', losses = 0,
  started_at = coalesce(nr.started_at, k.started_at, CAST(:now AS timestamptz)),
  resume_state = json_build_object(
    'began', coalesce(CAST(nr.resume_state ->> 'began' AS float8),
      extract(epoch FROM coalesce(nr.started_at, k.started_at, CAST(:now AS timestamptz)))),
    'turn', CAST(k.left_behind AS json))
FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
""")


def write_deferrals(connection: Connection, deferred: Sequence[Deferred], now: datetime) -> None:
    """Let go of attempts until they are due; the caller holds their locks."""
    if not deferred:
        return
    _DEFER.run(
        connection,
        {
            "runs": uuids(one.key[0] for one in deferred),
            "nos": ints(one.key[1] for one in deferred),
            "maps": ints(one.key[2] for one in deferred),
            "attempts": ints(one.key[3] for one in deferred),
            "starts": times(one.started_at for one in deferred),
            "resumes": times(one.resume_at for one in deferred),
            "states": [json.dumps(one.deferral.model_dump(exclude={"after"})) for one in deferred],
            "all_runs": uuids({one.key[0] for one in deferred}),
            "now": now,
        },
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """What a claimed attempt goes on with."""

    turn: Turn
    used: float  #: Seconds since this attempt began: its timeout counts from there.


_CARRIED = Statement(f"""
SELECT nr.run_id, nr.node_no, nr.map_index, a.attempt, nr.resume_state -> 'turn' AS turn,
  greatest(0, extract(epoch FROM clock_timestamp()) - CAST(nr.resume_state ->> 'began' AS float8))::float8 AS waited,
  coalesce(greatest(0, extract(epoch FROM clock_timestamp() - a.started_at)), 0)::float8 AS used,
  a.started_at IS NOT NULL AS again
FROM (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]))
    AS t(run_id, node_no, map_index, attempt)
  {ONE_BY_ONE}
) AS k
JOIN node_run nr ON nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
JOIN attempt a ON a.run_id = k.run_id AND a.node_no = k.node_no AND a.map_index = k.map_index AND a.attempt = k.attempt
WHERE nr.run_id = ANY(CAST(:all_runs AS uuid[])) AND a.run_id = ANY(CAST(:all_runs AS uuid[]))
  AND nr.resume_state IS NOT NULL
""")


def carried(connection: Connection, keys: Sequence[AttemptKey]) -> dict[AttemptKey, Carried]:
    """What these attempts go on with, now that they are claimed; a new attempt's log begins anew."""
    if not keys:
        return {}
    rows = _CARRIED.run(
        connection,
        {
            "runs": uuids(key[0] for key in keys),
            "nos": ints(key[1] for key in keys),
            "maps": ints(key[2] for key in keys),
            "attempts": ints(key[3] for key in keys),
            "all_runs": uuids({key[0] for key in keys}),
        },
    )
    found = {}
    for row in rows:
        left = row.turn if row.again else {"state": row.turn["state"]}
        turn = Turn.model_construct(**{**Turn().model_dump(), **left, "waited": row.waited})
        found[row.run_id, row.node_no, row.map_index, row.attempt] = Carried(turn, row.used)
    return found

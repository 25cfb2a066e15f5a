"""Attempts: reading them under lock with what decides their end, and writing how they ended."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agentflow.db.arrays import ints, uuids
from agentflow.db.queries.locks import RUN_COLUMNS, LockedRun, locked_run
from agentflow.db.statement import Statement
from agentflow.states import AttemptState, NodeRunState

#: run id, node number, map index, attempt number
AttemptKey = tuple[uuid.UUID, int, int, int]


def token_hash(token: str) -> bytes:
    """What is stored of a fencing token."""
    return hashlib.sha256(token.encode()).digest()


def attempt_id(key: AttemptKey) -> str:
    """The text form of a key, as executors see it."""
    return "/".join(str(part) for part in key)


def parse_attempt_id(text_form: str) -> AttemptKey:
    """Read `attempt_id` back; ValueError when it is not one."""
    run_id, node_no, map_index, attempt = text_form.split("/")
    return (uuid.UUID(run_id), int(node_no), int(map_index), int(attempt))


@dataclass(frozen=True, slots=True)
class LockedAttempt:
    """An attempt and its node run, both locked, with the policy that decides what comes next."""

    key: AttemptKey
    version_id: int
    attempt_state: AttemptState
    token_hash: bytes
    scheduler_id: uuid.UUID
    node_state: NodeRunState
    current_attempt: int  #: The node run's newest attempt; an older one is history.
    failures: int
    losses: int
    node_id: str
    type: str
    is_leaf: bool
    retries: int
    retry_delay: float
    retry_backoff: float
    retry_max_delay: float
    retry_jitter: float = 0.0
    retry_on: Sequence[str] | None = None  #: Error types and exit codes; None: all.
    fail_on: Sequence[str] | None = None


#: Runs first, then node runs and attempts, all in key order: `k` is whole, and with that every run is locked, before its
#: first row goes on, and each row is then looked up by its key. Without LATERAL the planner, whose statistics know
#: nothing of a new run, may begin with all node runs of these runs. Rows locked after a wait come in their newest version.
_LOCK = Statement(f"""
WITH r AS MATERIALIZED (
  SELECT {RUN_COLUMNS} FROM run WHERE id = ANY(CAST(:all_runs AS uuid[])) ORDER BY id FOR NO KEY UPDATE
), k AS MATERIALIZED (
  SELECT r.*, t.node_no, t.map_index, t.attempt
  FROM r JOIN unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]))
    AS t(run_id, node_no, map_index, attempt) ON t.run_id = r.id
  ORDER BY r.id, t.node_no, t.map_index, t.attempt
)
SELECT k.*, a.state AS attempt_state, a.token_hash, a.scheduler_id, nr.state AS node_state,
  nr.attempt AS current_attempt, nr.failures, nr.losses,
  vn.node_id, vn.type, vn.is_leaf, vn.retries, vn.retry_delay, vn.retry_backoff, vn.retry_max_delay,
  vn.retry_jitter, vn.retry_on, vn.fail_on,
  clock_timestamp() AS now
FROM k
CROSS JOIN LATERAL (
  SELECT * FROM node_run WHERE run_id = k.id AND node_no = k.node_no AND map_index = k.map_index
    AND run_id = ANY(CAST(:all_runs AS uuid[])) FOR NO KEY UPDATE
) AS nr
CROSS JOIN LATERAL (
  SELECT * FROM attempt WHERE run_id = k.id AND node_no = k.node_no AND map_index = k.map_index
    AND attempt = k.attempt AND run_id = ANY(CAST(:all_runs AS uuid[])) FOR NO KEY UPDATE
) AS a
CROSS JOIN LATERAL (
  SELECT * FROM version_node WHERE version_id = nr.version_id AND node_no = k.node_no OFFSET 0
) AS vn
""")


@dataclass(frozen=True, slots=True)
class LockedBatch:
    """Attempts with their runs, all locked, at one instant of the database's clock."""

    runs: dict[uuid.UUID, LockedRun]
    attempts: dict[AttemptKey, LockedAttempt]
    now: datetime | None  #: None when nothing was found.


def lock_attempts(connection: Connection, keys: Sequence[AttemptKey]) -> LockedBatch:
    """Lock runs, node runs and attempts of these keys; unknown keys are left out."""
    rows = _LOCK.run(
        connection,
        {
            "runs": uuids(key[0] for key in keys),
            "nos": ints(key[1] for key in keys),
            "maps": ints(key[2] for key in keys),
            "attempts": ints(key[3] for key in keys),
            "all_runs": uuids({key[0] for key in keys}),
        },
    )
    runs: dict[uuid.UUID, LockedRun] = {}
    for row in rows:
        if row.id not in runs:
            runs[row.id] = locked_run(row)
    attempts = {(r.id, r.node_no, r.map_index, r.attempt): _locked_attempt(r) for r in rows}
    return LockedBatch(runs, attempts, max((row.now for row in rows), default=None))


def _locked_attempt(row: Any) -> LockedAttempt:
    return LockedAttempt(
        key=(row.id, row.node_no, row.map_index, row.attempt),
        version_id=row.version_id,
        attempt_state=AttemptState(row.attempt_state),
        token_hash=bytes(row.token_hash),
        scheduler_id=row.scheduler_id,
        node_state=NodeRunState(row.node_state),
        current_attempt=row.current_attempt,
        failures=row.failures,
        losses=row.losses,
        node_id=row.node_id,
        type=row.type,
        is_leaf=row.is_leaf,
        retries=row.retries,
        retry_delay=row.retry_delay,
        retry_backoff=row.retry_backoff,
        retry_max_delay=row.retry_max_delay,
        retry_jitter=row.retry_jitter,
        retry_on=row.retry_on,
        fail_on=row.fail_on,
    )


_OPEN_OF = Statement("""
SELECT run_id, node_no, map_index, attempt, executor FROM attempt
WHERE scheduler_id = :scheduler AND state IN ('queued', 'launching', 'running') AND run_id >= :oldest
""")
_OPEN_WITH_RUN = Statement("""
SELECT a.run_id, a.node_no, a.map_index, a.attempt,
  (r.cancel_requested_at IS NOT NULL OR r.timed_out) AND r.state = 'running' AS stopping
FROM attempt a JOIN run r ON r.id = a.run_id
WHERE a.scheduler_id = :scheduler AND a.state IN ('queued', 'launching', 'running') AND a.run_id >= :oldest
""")


def open_attempts(connection: Connection, scheduler_id: uuid.UUID, oldest: uuid.UUID) -> dict[AttemptKey, str]:
    """Open attempts of a scheduler, with the executor each was given to."""
    rows = _OPEN_OF.run(connection, {"scheduler": scheduler_id, "oldest": oldest})
    return {(r.run_id, r.node_no, r.map_index, r.attempt): r.executor for r in rows}


def attempts_to_stop(
    connection: Connection, scheduler_id: uuid.UUID, oldest: uuid.UUID, live: Collection[str]
) -> list[str]:
    """Which of a scheduler's live attempts must end: their run is being stopped, or they were cleared by force."""
    rows = _OPEN_WITH_RUN.run(connection, {"scheduler": scheduler_id, "oldest": oldest})
    wanted = {attempt_id((r.run_id, r.node_no, r.map_index, r.attempt)) for r in rows if not r.stopping}
    return [attempt for attempt in live if attempt not in wanted]

"""Attempts: reading them under lock with what decides their end, and writing how they ended."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, times, uuids, words
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


_LOCK = text("""
SELECT nr.run_id, nr.node_no, nr.map_index, a.attempt, nr.version_id, a.state AS attempt_state, a.token_hash,
  a.scheduler_id, nr.state AS node_state, nr.attempt AS current_attempt, nr.failures, nr.losses,
  vn.node_id, vn.type, vn.is_leaf, vn.retries, vn.retry_delay, vn.retry_backoff, vn.retry_max_delay
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]))
  AS k(run_id, node_no, map_index, attempt)
JOIN node_run nr ON nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
JOIN attempt a ON a.run_id = k.run_id AND a.node_no = k.node_no AND a.map_index = k.map_index AND a.attempt = k.attempt
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = ANY(CAST(:all_runs AS uuid[])) AND a.run_id = ANY(CAST(:all_runs AS uuid[]))
ORDER BY nr.run_id, nr.node_no, nr.map_index, a.attempt FOR NO KEY UPDATE OF nr, a
""")


def lock_attempts(connection: Connection, keys: Sequence[AttemptKey]) -> dict[AttemptKey, LockedAttempt]:
    """Lock these attempts and their node runs in key order; the runs' locks are held already."""
    rows = connection.execute(
        _LOCK,
        {
            "runs": uuids(key[0] for key in keys),
            "nos": ints(key[1] for key in keys),
            "maps": ints(key[2] for key in keys),
            "attempts": ints(key[3] for key in keys),
            "all_runs": uuids({key[0] for key in keys}),
        },
    )
    locked = {}
    for r in rows:
        key = (r.run_id, r.node_no, r.map_index, r.attempt)
        locked[key] = LockedAttempt(
            key=key,
            version_id=r.version_id,
            attempt_state=AttemptState(r.attempt_state),
            token_hash=bytes(r.token_hash),
            scheduler_id=r.scheduler_id,
            node_state=NodeRunState(r.node_state),
            current_attempt=r.current_attempt,
            failures=r.failures,
            losses=r.losses,
            node_id=r.node_id,
            type=r.type,
            is_leaf=r.is_leaf,
            retries=r.retries,
            retry_delay=r.retry_delay,
            retry_backoff=r.retry_backoff,
            retry_max_delay=r.retry_max_delay,
        )
    return locked


@dataclass(frozen=True, slots=True)
class AttemptWrite:
    """The decided end (or start) of an attempt: what to store, in one row of one statement."""

    key: AttemptKey
    attempt_state: AttemptState
    node_state: NodeRunState
    started_at: datetime | None
    finished_at: datetime | None  #: Null while it runs.
    failures: int
    losses: int
    resume_at: datetime | None = None
    ready_at: datetime | None = None
    output: str | None = None  #: JSON text.
    error: str | None = None  #: JSON text.


_WRITE = text("""
WITH k AS (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
    CAST(:a_states AS text[]), CAST(:n_states AS text[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]),
    CAST(:failures AS int[]), CAST(:losses AS int[]), CAST(:resumes AS timestamptz[]), CAST(:readies AS timestamptz[]),
    CAST(:errors AS text[]), CAST(:outputs AS text[]))
    AS t(run_id, node_no, map_index, attempt, a_state, n_state, started_at, finished_at, failures, losses, resume_at,
         ready_at, error, output)
), o AS (
  INSERT INTO output (run_id, node_no, map_index, value, bytes)
  SELECT run_id, node_no, map_index, CAST(output AS json), octet_length(output) FROM k WHERE output IS NOT NULL
  ON CONFLICT (run_id, node_no, map_index) DO UPDATE SET value = excluded.value, bytes = excluded.bytes
), a AS (
  UPDATE attempt SET state = k.a_state, started_at = coalesce(k.started_at, attempt.started_at),
    finished_at = k.finished_at, error = CAST(k.error AS json)
  FROM k WHERE attempt.run_id = k.run_id AND attempt.node_no = k.node_no AND attempt.map_index = k.map_index
    AND attempt.attempt = k.attempt AND attempt.run_id = ANY(CAST(:all_runs AS uuid[]))
)
UPDATE node_run nr SET state = k.n_state, started_at = coalesce(k.started_at, nr.started_at),
  finished_at = CASE WHEN k.n_state IN ('success', 'failed', 'skipped', 'cancelled') THEN k.finished_at END,
  failures = k.failures, losses = k.losses, resume_at = k.resume_at, resume_key = NULL,
  ready_at = coalesce(k.ready_at, nr.ready_at), error = CAST(k.error AS json)
FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
""")


def write_attempts(connection: Connection, writes: Sequence[AttemptWrite]) -> None:
    """Store starts and ends of locked attempts, their node runs and outputs."""
    if not writes:
        return
    connection.execute(
        _WRITE,
        {
            "runs": uuids(w.key[0] for w in writes),
            "nos": ints(w.key[1] for w in writes),
            "maps": ints(w.key[2] for w in writes),
            "attempts": ints(w.key[3] for w in writes),
            "a_states": words(w.attempt_state for w in writes),
            "n_states": words(w.node_state for w in writes),
            "starts": times(w.started_at for w in writes),
            "ends": times(w.finished_at for w in writes),
            "failures": ints(w.failures for w in writes),
            "losses": ints(w.losses for w in writes),
            "resumes": times(w.resume_at for w in writes),
            "readies": times(w.ready_at for w in writes),
            "errors": [w.error for w in writes],
            "outputs": [w.output for w in writes],
            "all_runs": uuids({w.key[0] for w in writes}),
        },
    )


_OPEN_OF = text("""
SELECT run_id, node_no, map_index, attempt, executor FROM attempt
WHERE scheduler_id = :scheduler AND state IN ('queued', 'launching', 'running') AND run_id >= :oldest
""")
_STOPPING_OF = text("""
SELECT a.run_id, a.node_no, a.map_index, a.attempt FROM attempt a JOIN run r ON r.id = a.run_id
WHERE a.scheduler_id = :scheduler AND a.state IN ('queued', 'launching', 'running') AND a.run_id >= :oldest
  AND (r.cancel_requested_at IS NOT NULL OR r.timed_out) AND r.state = 'running'
""")


def open_attempts(connection: Connection, scheduler_id: uuid.UUID, oldest: uuid.UUID) -> dict[AttemptKey, str]:
    """Open attempts of a scheduler, with the executor each was given to."""
    rows = connection.execute(_OPEN_OF, {"scheduler": scheduler_id, "oldest": oldest})
    return {(r.run_id, r.node_no, r.map_index, r.attempt): r.executor for r in rows}


def attempts_to_stop(connection: Connection, scheduler_id: uuid.UUID, oldest: uuid.UUID) -> list[AttemptKey]:
    """Open attempts of this scheduler whose run is being cancelled or has timed out."""
    rows = connection.execute(_STOPPING_OF, {"scheduler": scheduler_id, "oldest": oldest})
    return [(r.run_id, r.node_no, r.map_index, r.attempt) for r in rows]

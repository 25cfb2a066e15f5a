"""The claim: which ready node runs may start now (ENGINE 4).

`lock_groups` finds, with a loose index scan, the groups that have something ready: its cost grows with the number of
groups, never with the number of ready rows behind a full pool, and has a bound: where thousands of workflows have work,
a claim looks at a window of them, and claims go round. Then, in one transaction: lock the pools and limited
workflows in id order, count what holds slots, take candidates with SKIP LOCKED, and write what `choose` picked.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agentflow.db.arrays import ONE_BY_ONE, blobs, ints, uuids
from agentflow.db.queries.attempts import AttemptKey, token_hash
from agentflow.db.queries.deferrals import TURN
from agentflow.db.statement import Statement


@dataclass(frozen=True, slots=True)
class Group:
    """Ready node runs that compete for the same slots."""

    id: int
    workflow_id: int
    pool_id: int
    executor: str  #: Empty: the scheduler's default.
    queue: str
    concurrency: int | None  #: Of the workflow.
    priority: int  #: Of its first ready node run.
    slots: int  #: Of the pool, which is locked.
    io: bool = False  #: They only wait for the network, and take slots of I/O lanes where there are any.
    backfill: bool = False  #: Of runs of backfills.


WINDOW = 256  #: Groups that one claim looks at. Priorities are kept within a window, and turns among windows.


@dataclass(frozen=True, slots=True)
class Window:
    """Groups with something ready, the highest priority first, then who has waited longest; their pools are locked."""

    groups: list[Group]
    end: int | None  #: The last group that was looked at, when there may be more behind it.
    alive: bool  #: Whether this scheduler is in the eyes of others.


#: In one statement: find the groups, lock this scheduler's row (it must still be alive) and the groups' pools in id
#: order. Slots come from the locked rows, so in their newest version; what is used is counted afterwards.
_GROUPS = """
WITH RECURSIVE g(group_id, n) AS (
  {source}
), found AS MATERIALIZED (
  SELECT dg.id, dg.workflow_id, dg.pool_id, dg.executor, dg.queue, dg.io, dg.backfill, w.concurrency
  FROM g JOIN dispatch_group dg ON dg.id = g.group_id JOIN workflow w ON w.id = dg.workflow_id
  WHERE (NOT w.paused OR dg.reserved_for IS NOT NULL)
    AND (dg.reserved_for = :me OR (dg.reserved_for IS NULL AND NOT :reserved_only))
    AND dg.queue = ANY(CAST(:queues AS text[])) AND dg.executor = ANY(CAST(:executors AS text[]))
), me AS MATERIALIZED (
  SELECT id FROM scheduler WHERE id = :me AND state = 'alive' FOR KEY SHARE
), p AS MATERIALIZED (
  SELECT pool.id, pool.slots FROM pool WHERE pool.id IN (SELECT pool_id FROM found) ORDER BY pool.id FOR UPDATE
)
SELECT found.id, found.workflow_id, found.pool_id, found.executor, found.queue, found.concurrency, top.priority, p.slots,
  found.io, found.backfill, EXISTS (SELECT 1 FROM me) AS alive, w.last, w.seen
FROM (SELECT max(group_id) AS last, count(group_id) AS seen FROM g) AS w
LEFT JOIN (found JOIN p ON p.id = found.pool_id CROSS JOIN LATERAL (
  SELECT nr.priority, nr.ready_at FROM node_run nr
  WHERE nr.state = 'ready' AND nr.group_id = found.id AND nr.run_id >= :oldest
  ORDER BY nr.priority DESC, nr.ready_at LIMIT 1) AS top) ON true
ORDER BY top.priority DESC, top.ready_at, found.id
"""
_LOOK = Statement(
    _GROUPS.format(
        source="""
  (SELECT group_id, 1 FROM node_run WHERE state = 'ready' AND run_id >= :oldest AND group_id > :after
   ORDER BY group_id LIMIT 1)
  UNION ALL
  SELECT (SELECT nr.group_id FROM node_run nr WHERE nr.state = 'ready' AND nr.run_id >= :oldest
          AND nr.group_id > g.group_id ORDER BY nr.group_id LIMIT 1), g.n + 1
  FROM g WHERE g.group_id IS NOT NULL AND g.n < :window"""
    )
)
_KNOWN = Statement(_GROUPS.format(source="SELECT group_id, 1 FROM unnest(CAST(:groups AS int[])) AS k(group_id)"))


@dataclass(frozen=True, slots=True)
class Asker:
    """Who claims, and what it may take."""

    me: uuid.UUID
    reserved_only: bool  #: `run FILE`: only what is reserved for it.
    queues: Sequence[str]
    executors: Sequence[str]  #: Empty text: groups that name none.


def lock_groups(connection: Connection, asker: Asker, *, oldest: uuid.UUID, after: int = 0) -> Window:
    """Groups with something ready that this scheduler may claim from, at most WINDOW of them, behind the group `after`."""
    rows = _LOOK.run(connection, {"oldest": oldest, "after": after, "window": WINDOW} | _asking(asker))
    seen = rows[0]
    return _window(rows, seen.last if seen.seen == WINDOW else None)


def lock_known(connection: Connection, asker: Asker, groups: Sequence[int], *, oldest: uuid.UUID) -> Window:
    """As `lock_groups`, of these groups those that still have something ready."""
    return _window(_KNOWN.run(connection, {"oldest": oldest, "groups": ints(groups)} | _asking(asker)), None)


def _asking(asker: Asker) -> dict[str, object]:
    return {
        "me": asker.me,
        "reserved_only": asker.reserved_only,
        "queues": list(asker.queues),
        "executors": list(asker.executors),
    }


def _window(rows: Sequence[Any], end: int | None) -> Window:
    groups = [Group(*row[:-3]) for row in rows if row.id is not None]
    return Window(groups, end, rows[0].alive or not groups)


@dataclass(frozen=True, slots=True)
class Holding:
    """What node runs of one kind hold."""

    pool_id: int
    executor: str
    io: bool
    backfill: bool
    slots: int  #: Of the pool.
    nodes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Slots of the locked pools and workflows, and what holds them."""

    pool_free: dict[int, int]
    workflow_running: dict[int, int]
    holdings: Sequence[Holding] = ()
    busy: frozenset[int] = frozenset()  #: Workflows with a limit that somebody else has locked: not now.


_LOCK_WORKFLOWS = Statement(
    "SELECT id FROM workflow WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
)
_USED = Statement("""
SELECT dg.pool_id, nr.executor, dg.io, dg.backfill, sum(nr.pool_slots)::int AS slots, count(*)::int AS nodes,
  dg.workflow_id
FROM node_run nr JOIN dispatch_group dg ON dg.id = nr.group_id
WHERE nr.state IN ('queued', 'running') AND nr.run_id >= :oldest
GROUP BY dg.pool_id, nr.executor, dg.io, dg.backfill, dg.workflow_id
""")


def lock_usage(connection: Connection, groups: Sequence[Group], *, oldest: uuid.UUID) -> Usage:
    """Lock the workflows with a limit of their own, and count what holds slots.

    Nobody is waited for: whoever starts a large run has its workflow locked for seconds, and all others' hops would wait.
    """
    limited = {group.workflow_id for group in groups if group.concurrency is not None}
    locked = {row.id for row in _LOCK_WORKFLOWS.run(connection, {"ids": ints(sorted(limited))})} if limited else set()
    free = {group.pool_id: group.slots for group in groups}
    running: dict[int, int] = {}
    # A statement of its own: its snapshot begins after the locks are held.
    used = _USED.run(connection, {"oldest": oldest})
    for row in used:
        if row.pool_id in free:
            free[row.pool_id] -= row.slots
        running[row.workflow_id] = running.get(row.workflow_id, 0) + row.nodes
    return Usage(free, running, [Holding(*row[:-1]) for row in used], frozenset(limited - locked))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready node run that this transaction has locked."""

    run_id: uuid.UUID
    node_no: int
    map_index: int
    version_id: int
    group_id: int
    priority: int
    ready_at: datetime
    pool_slots: int
    attempt: int  #: Newest attempt so far.
    again: bool = False  #: That attempt was deferred, and this is its next turn.
    carries: bool = False  #: A turn before has left something.


_CANDIDATES = Statement(f"""
SELECT nr.run_id, nr.node_no, nr.map_index, nr.version_id, nr.group_id, nr.priority, nr.ready_at, nr.pool_slots,
  nr.attempt, coalesce(nr.resume_key = '{TURN}', false) AS again, nr.resume_state IS NOT NULL AS carries
FROM unnest(CAST(:groups AS int[]), CAST(:limits AS int[])) AS q(group_id, n),
LATERAL (
  SELECT * FROM node_run WHERE state = 'ready' AND group_id = q.group_id AND run_id >= :oldest
  ORDER BY priority DESC, ready_at, run_id, node_no LIMIT q.n FOR NO KEY UPDATE SKIP LOCKED
) AS nr
""")


def take_candidates(connection: Connection, limits: dict[int, int], *, oldest: uuid.UUID) -> list[Candidate]:
    """Lock up to `limits[group]` ready node runs of each group."""
    rows = _CANDIDATES.run(connection, {"groups": ints(limits), "limits": ints(limits.values()), "oldest": oldest})
    return [Candidate(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Claim:
    """A node run taken for its next attempt."""

    key: AttemptKey
    version_id: int
    executor: str
    token: str
    again: bool = False
    carries: bool = False


_CLAIM = Statement(f"""
WITH k AS (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
    CAST(:executors AS text[]), CAST(:hashes AS bytea[]))
    AS t(run_id, node_no, map_index, attempt, executor, token_hash)
  {ONE_BY_ONE}
), a AS (
  INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at)
  SELECT run_id, node_no, map_index, attempt, 'queued', token_hash, executor, :me, clock_timestamp() FROM k
)
UPDATE node_run nr SET state = 'queued', attempt = k.attempt, executor = k.executor, queued_at = clock_timestamp(),
  started_at = NULL, error = NULL
FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
""")


#: The next turn of an attempt: a new token, so that nothing which is said about an earlier one counts.
_CLAIM_AGAIN = Statement(f"""
WITH k AS (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
    CAST(:executors AS text[]), CAST(:hashes AS bytea[]))
    AS t(run_id, node_no, map_index, attempt, executor, token_hash)
  {ONE_BY_ONE}
), a AS (
  UPDATE attempt SET state = 'queued', token_hash = k.token_hash, executor = k.executor, scheduler_id = :me
  FROM k WHERE attempt.run_id = k.run_id AND attempt.node_no = k.node_no AND attempt.map_index = k.map_index
    AND attempt.attempt = k.attempt AND attempt.state = 'deferred' AND attempt.run_id = ANY(CAST(:all_runs AS uuid[]))
)
UPDATE node_run nr SET state = 'queued', executor = k.executor, resume_key = NULL
FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
  AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
""")


def write_claims(connection: Connection, claims: Sequence[Claim], *, me: uuid.UUID) -> None:
    """Queue these node runs; open their attempts, or take up those that were deferred."""
    for statement, found in (
        (_CLAIM, [c for c in claims if not c.again]),
        (_CLAIM_AGAIN, [c for c in claims if c.again]),
    ):
        if found:
            _write(connection, statement, found, me)


def _write(connection: Connection, statement: Statement, claims: Sequence[Claim], me: uuid.UUID) -> None:
    statement.run(
        connection,
        {
            "runs": uuids(c.key[0] for c in claims),
            "nos": ints(c.key[1] for c in claims),
            "maps": ints(c.key[2] for c in claims),
            "attempts": ints(c.key[3] for c in claims),
            "executors": [c.executor for c in claims],
            "hashes": blobs(token_hash(c.token) for c in claims),
            "all_runs": uuids({c.key[0] for c in claims}),
            "me": me,
        },
    )


#: Materialized: in the order of the key, the planner would walk through all history before the first open run.
_OLDEST = Statement("""
WITH open AS MATERIALIZED (SELECT id FROM run WHERE state IN ('queued', 'running')) SELECT id FROM open ORDER BY id LIMIT 1
""")
_NOTHING_OPEN = uuid.UUID(int=0)


def oldest_open_run(connection: Connection) -> uuid.UUID:
    """Lower bound of the runs that claims look at, so that old partitions are pruned."""
    rows = _OLDEST.run(connection, {})
    return rows[0].id if rows else _NOTHING_OPEN

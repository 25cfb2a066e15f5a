"""Schedulers that stopped beating, and what they leave behind."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

from agentflow.ids import uuid7_floor, uuid7_time

CLOCKS_APART = timedelta(hours=1)  #: A run's id is made on the database's clock, a scheduler's on its machine's.

_DEAD = text("""
UPDATE scheduler SET state = 'dead' WHERE id IN (
  SELECT id FROM scheduler
  WHERE state IN ('alive', 'stopping') AND beat_at < clock_timestamp() - make_interval(secs => :after) AND id <> :me
  FOR UPDATE SKIP LOCKED
) RETURNING id
""")
_GONE_WITH_ATTEMPTS = text("""
SELECT DISTINCT s.id FROM scheduler s JOIN attempt a ON a.scheduler_id = s.id
WHERE s.state IN ('dead', 'stopped') AND a.state IN ('queued', 'launching', 'running') AND a.run_id >= :oldest
""")
_RESERVED_OF_GONE = text("""
SELECT DISTINCT g.reserved_for FROM dispatch_group g LEFT JOIN scheduler s ON s.id = g.reserved_for
WHERE g.reserved_for IS NOT NULL AND (s.id IS NULL OR s.state IN ('dead', 'stopped'))
""")
_UNRESERVE_NODES = text("""
UPDATE node_run nr SET group_id = shared.id
FROM dispatch_group g JOIN dispatch_group shared ON shared.workflow_id = g.workflow_id AND shared.pool_id = g.pool_id
  AND shared.executor = g.executor AND shared.queue = g.queue AND shared.io = g.io AND shared.reserved_for IS NULL
  AND shared.backfill = g.backfill
WHERE g.reserved_for = ANY(:owners) AND nr.group_id = g.id
  AND nr.run_id = ANY(:runs)
""")
#: A scheduler's id carries the time of its start: its runs are younger, and older history is not read.
_RESERVED_RUNS = text("""
SELECT id FROM run WHERE reserved_for = ANY(:owners) AND id >= :since ORDER BY id FOR NO KEY UPDATE
""")
_UNRESERVE_RUNS = text("UPDATE run SET reserved_for = NULL WHERE id = ANY(:runs)")
_DROP_GROUPS = text("DELETE FROM dispatch_group WHERE reserved_for = ANY(:owners)")


def mark_dead(connection: Connection, *, me: uuid.UUID, after: float) -> list[uuid.UUID]:
    """Declare schedulers dead that have not beaten for `after` seconds."""
    return list(connection.scalars(_DEAD, {"after": after, "me": me}))


def gone_with_attempts(connection: Connection, oldest: uuid.UUID) -> list[uuid.UUID]:
    """Schedulers that are gone while attempts of theirs are open: also those that claimed in their last moment."""
    return list(connection.scalars(_GONE_WITH_ATTEMPTS, {"oldest": oldest}))


def gone_with_reservations(connection: Connection) -> list[uuid.UUID]:
    """Schedulers of `run FILE` that are gone while runs are still reserved for them."""
    return list(connection.scalars(_RESERVED_OF_GONE))


def release_reservations(connection: Connection, owners: Sequence[uuid.UUID]) -> None:
    """Hand reserved runs to everybody: their node runs go back to the shared dispatch groups."""
    parameters = {"owners": list(owners), "since": uuid7_floor(uuid7_time(min(owners)) - CLOCKS_APART)}
    parameters["runs"] = list(connection.scalars(_RESERVED_RUNS, parameters))
    connection.execute(_UNRESERVE_NODES, parameters)
    connection.execute(_UNRESERVE_RUNS, parameters)
    connection.execute(_DROP_GROUPS, parameters)

"""Reading the schedulers: who is alive, who was, and what waits for one that nobody started."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.queries.claims import oldest_open_run
from agentflow.states import SCHEDULER_DEAD

CURSOR = "schedulers"
_AFTER_ALL = uuid.UUID(int=2**128 - 1)

#: Nobody else may be left to declare the last one dead. What those that are gone had is others' by now: it is not counted.
_LIST = text("""
SELECT s.id, s.hostname, s.pid, s.executors, s.queues, s.parallelism, s.started_at, s.beat_at, age.seconds AS beat_age,
  CASE WHEN s.state IN ('alive', 'stopping') AND age.seconds > :dead THEN 'dead' ELSE s.state END AS state,
  CASE WHEN s.state IN ('alive', 'stopping') THEN (SELECT attempts FROM scheduler_load(s.id)) ELSE 0 END AS attempts
FROM scheduler s CROSS JOIN LATERAL (
  SELECT greatest(0, extract(epoch FROM clock_timestamp() - s.beat_at))::float AS seconds
) AS age
WHERE s.id < :before AND (CAST(:ended_within AS float) IS NULL OR age.seconds < :ended_within)
ORDER BY s.id DESC LIMIT :limit
""")


def list_schedulers(
    connection: Connection, *, limit: int = 25, cursor: str | None = None, ended_within: float | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of schedulers, the newest first, and the cursor of the next page.

    One without queues is an `agentflow run FILE`, which runs nothing else.

    Args:
        connection: In a transaction.
        limit: At most so many.
        cursor: Of this page.
        ended_within: Leave those out that have not beaten for so many seconds.

    Raises:
        UsageError: The cursor is not one of this list.
    """
    before = _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, uuid.UUID)
    parameters = {"before": before, "dead": SCHEDULER_DEAD}
    rows = connection.execute(_LIST, parameters | {"ended_within": ended_within, "limit": limit + 1}).all()
    following = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [
        {
            "id": str(row.id),
            "hostname": row.hostname,
            "pid": row.pid,
            "state": row.state,
            "executors": row.executors,
            "queues": row.queues,
            "parallelism": row.parallelism,
            "attempts": row.attempts,
            "started_at": iso(row.started_at),
            "beat_at": iso(row.beat_at),
            "beat_age": round(row.beat_age, 3),
        }
        for row in rows[:limit]
    ], following


_ALIVE = text("""
SELECT count(*) FROM scheduler
WHERE state = 'alive' AND beat_at > clock_timestamp() - make_interval(secs => :dead) AND cardinality(queues) > 0
""")
#: Groups with something ready are found by a loose index scan, as the claim finds them: its cost grows with the number of
#: groups, not with what is ready.
_UNSERVED = text("""
WITH RECURSIVE g AS (
  (SELECT group_id FROM node_run WHERE state = 'ready' AND run_id >= :oldest ORDER BY group_id LIMIT 1)
  UNION ALL
  SELECT (SELECT nr.group_id FROM node_run nr WHERE nr.state = 'ready' AND nr.run_id >= :oldest
          AND nr.group_id > g.group_id ORDER BY nr.group_id LIMIT 1)
  FROM g WHERE g.group_id IS NOT NULL
)
SELECT dg.queue, dg.executor, array_agg(DISTINCT w.name ORDER BY w.name) AS workflows
FROM g JOIN dispatch_group dg ON dg.id = g.group_id JOIN workflow w ON w.id = dg.workflow_id
WHERE NOT w.paused AND dg.reserved_for IS NULL AND NOT EXISTS (
  SELECT FROM scheduler s
  WHERE s.state = 'alive' AND s.beat_at > clock_timestamp() - make_interval(secs => :dead)
    AND dg.queue = ANY(s.queues) AND (dg.executor = '' OR dg.executor = ANY(s.executors)))
GROUP BY dg.queue, dg.executor ORDER BY dg.queue, dg.executor
""")


def count_alive(connection: Connection) -> int:
    """How many schedulers take whatever comes."""
    return int(connection.execute(_ALIVE, {"dead": SCHEDULER_DEAD}).scalar_one())


def unserved(connection: Connection) -> list[dict[str, Any]]:
    """Where ready nodes wait for a scheduler that nobody started.

    Returns:
        `{queue, executor, workflows}`: no living scheduler serves the queue and has the executor; its name is null where
        any scheduler's default will do.
    """
    rows = connection.execute(_UNSERVED, {"oldest": oldest_open_run(connection), "dead": SCHEDULER_DEAD})
    return [{"queue": row.queue, "executor": row.executor or None, "workflows": list(row.workflows)} for row in rows]


def describe_unserved(one: Mapping[str, Any]) -> str:
    """One of them in words: what waits, and what to do."""
    names: list[str] = one["workflows"]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    start = f"AGENTFLOW_QUEUES={one['queue']}"
    if one["executor"] is not None:
        start += f" and AGENTFLOW_EXECUTORS={one['executor']}"
    where = f"the queue {one['queue']!r}" + (f" with the executor {one['executor']!r}" if one["executor"] else "")
    return f"nodes of {shown} are ready, but no living scheduler serves {where}: start one with {start}"

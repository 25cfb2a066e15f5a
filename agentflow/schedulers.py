"""The schedulers that take part, and what waits for one that nobody started. In the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from agentflow.clock import iso
from agentflow.db.queries.claims import oldest_open_run
from agentflow.states import SCHEDULER_DEAD

#: Those that have ended are shown for an hour, unless all are wanted. One that is silent is as good as dead: the others
#: only have not written it down yet.
_LIST = text("""
SELECT s.id, s.hostname, s.pid, s.executors, s.queues, s.parallelism, s.started_at, s.beat_at,
  CASE WHEN s.state IN ('alive', 'stopping') AND age.seconds > :dead THEN 'dead' ELSE s.state END AS state,
  age.seconds AS beat_age,
  (SELECT count(*) FROM attempt a WHERE a.scheduler_id = s.id AND a.state IN ('queued', 'launching', 'running')
     AND a.run_id >= :oldest)::int AS attempts
FROM scheduler s CROSS JOIN LATERAL (
  SELECT greatest(0, extract(epoch FROM clock_timestamp() - s.beat_at))::float AS seconds
) AS age
WHERE :all OR s.state IN ('alive', 'stopping') OR age.seconds < 3600
ORDER BY s.state NOT IN ('alive', 'stopping'), s.id DESC
LIMIT 1000
""")
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


def list_schedulers(connection: Connection, *, everything: bool = False) -> list[dict[str, Any]]:
    """The schedulers, living ones first, then the newest; those that ended over an hour ago only with `everything`.

    Returns:
        `{id, hostname, pid, state, executors, queues, parallelism, attempts, started_at, beat_at, beat_age}`; a
        scheduler without queues is an `agentflow run FILE`, which runs nothing else.
    """
    parameters = {"dead": SCHEDULER_DEAD, "all": everything, "oldest": oldest_open_run(connection)}
    return [
        {
            "id": str(row.id),
            "hostname": row.hostname,
            "pid": row.pid,
            "state": row.state,
            "executors": list(row.executors),
            "queues": list(row.queues),
            "parallelism": row.parallelism,
            "attempts": row.attempts,
            "started_at": iso(row.started_at),
            "beat_at": iso(row.beat_at),
            "beat_age": round(row.beat_age, 3),
        }
        for row in connection.execute(_LIST, parameters)
    ]


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


def describe_unserved(one: dict[str, Any]) -> str:
    """One of them in words: what waits, and what to do."""
    names: list[str] = one["workflows"]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    start = f"AGENTFLOW_QUEUES={one['queue']}"
    if one["executor"] is not None:
        start += f" and AGENTFLOW_EXECUTORS={one['executor']}"
    where = f"the queue {one['queue']!r}" + (f" with the executor {one['executor']!r}" if one["executor"] else "")
    return f"nodes of {shown} are ready, but no living scheduler serves {where}: start one with {start}"

"""Reading the schedulers: who is alive, and who was."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text

from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor

CURSOR = "schedulers"
DEAD_AFTER = 8.0  #: Seconds without a heartbeat (DESIGN section 3).
_AFTER_ALL = uuid.UUID(int=2**128 - 1)

#: Nobody else may be left to declare the last one dead.
_LIST = text("""
SELECT id, hostname, pid, executors, queues, parallelism, started_at, beat_at,
  CASE WHEN state IN ('alive', 'stopping') AND beat_at < clock_timestamp() - make_interval(secs => :dead_after)
    THEN 'dead' ELSE state END AS state
FROM scheduler WHERE id < :before ORDER BY id DESC LIMIT :limit
""")


def list_schedulers(
    connection: Connection, *, limit: int = 25, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of schedulers, the newest first, and the cursor of the next page.

    Raises:
        UsageError: The cursor is not one of this list.
    """
    before = _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, uuid.UUID)
    rows = connection.execute(_LIST, {"before": before, "dead_after": DEAD_AFTER, "limit": limit + 1}).all()
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
            "started_at": iso(row.started_at),
            "beat_at": iso(row.beat_at),
        }
        for row in rows[:limit]
    ], following

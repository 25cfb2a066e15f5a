"""Months of history as a whole: which there are, what keeps them, and dropping them (ENGINE 1)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.models.history import PARTITIONED
from agentflow.db.partitions import month_start
from agentflow.db.queries.trash import discard_objects
from agentflow.ids import uuid7_floor
from agentflow.objects.names import month_prefix

LISTED = 20  #: Open runs told by name.
_BATCH = 10_000
_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}})_(\d{{2}})")


@dataclass(frozen=True, slots=True)
class Month:
    """A month that has partitions."""

    start: datetime

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        return month_start(self.start, 1)

    @property
    def suffix(self) -> str:
        """As in the names of its partitions."""
        return f"{self.start:%Y_%m}"

    @property
    def range(self) -> dict[str, uuid.UUID]:
        """Run ids from `low` to before `high` are of this month."""
        return {"low": uuid7_floor(self.start), "high": uuid7_floor(self.end)}

    def tables(self, connection: Connection) -> list[str]:
        """Its partitions that exist."""
        wanted = [f"{table}_{self.suffix}" for table in PARTITIONED]
        there = _partitions(connection)
        return [name for name in wanted if name in there]


def months_before(connection: Connection, cutoff: datetime) -> list[Month]:
    """Months with partitions that lie before the cutoff as a whole, the oldest first."""
    found = {
        datetime(int(match[2]), int(match[3]), 1, tzinfo=UTC)
        for name in _partitions(connection)
        if (match := _NAME.fullmatch(name))
    }
    return [month for start in sorted(found) if (month := Month(start)).end <= cutoff]


def _partitions(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relispartition")))


#: An ended sub-run of a run that is open still belongs to it; an end that nobody was told of still has to be.
#: All by small indexes: it is asked while everybody is locked out.
_OPEN = text("""
WITH k AS (
  SELECT id FROM run WHERE state IN ('queued', 'running') AND id >= :low AND id < :high
  UNION SELECT run_id FROM run_end WHERE run_id >= :low AND run_id < :high
  UNION SELECT c.id FROM run p JOIN run c ON c.parent_run_id = p.id
    WHERE p.state IN ('queued', 'running') AND c.id >= :low AND c.id < :high
)
SELECT r.id, w.name AS workflow, r.state FROM k JOIN run r ON r.id = k.id JOIN workflow w ON w.id = r.workflow_id
WHERE r.id >= :low AND r.id < :high ORDER BY r.id LIMIT :limit
""")


def open_runs_of(connection: Connection, month: Month) -> list[dict[str, Any]]:
    """Runs that keep a month, at most LISTED of them."""
    rows = connection.execute(_OPEN, month.range | {"limit": LISTED})
    return [{"id": str(row.id), "workflow": row.workflow, "state": row.state} for row in rows]


def rows_of(connection: Connection, month: Month) -> dict[str, int]:
    """Rows by partition."""
    return {
        table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
        for table in month.tables(connection)
    }


def bytes_of(connection: Connection, month: Month) -> int:
    """Bytes that its partitions take on disk, indexes included."""
    size = text(
        "SELECT coalesce(sum(pg_total_relation_size(CAST(t AS regclass))), 0)::bigint FROM unnest(CAST(:tables AS text[])) AS t"
    )
    return int(connection.execute(size, {"tables": month.tables(connection)}).scalar_one())


def lines_of(connection: Connection, table: str) -> Iterator[str]:
    """Every row of a partition as a JSON object in one line; numbers and the order of keys within are kept."""
    streaming = connection.execution_options(stream_results=True, max_row_buffer=1000)
    with streaming.execute(text(f"SELECT CAST(row_to_json(t) AS text) FROM {table} AS t")) as result:
        for value in result.scalars():
            yield value.replace("\n", " ")  # blank space between values: within texts it is escaped


_SIDE = [
    text(f"DELETE FROM {table} WHERE {column} >= :low AND {column} < :high")
    for table, column in (("manual_date", "run_id"), ("run_waiter", "run_id"), ("run_waiter", "awaited_run_id"))
]


def drop_month(connection: Connection, month: Month, *, lock_timeout: timedelta, keep_objects: bool) -> bool:
    """Drop a month with what belongs to it, unless a run of it is open; whether it was dropped.

    Locks out everybody for the moment that it takes, so it gives up its turn after `lock_timeout`.

    Raises:
        DBAPIError: `lock_timeout` was over (SQLSTATE 55P03).
    """
    millis = lock_timeout // timedelta(milliseconds=1)
    connection.execute(text(f"SET LOCAL lock_timeout = '{millis}ms'"))
    connection.execute(
        text(f"LOCK TABLE {', '.join(f'ONLY {table}' for table in PARTITIONED)} IN ACCESS EXCLUSIVE MODE")
    )
    if open_runs_of(connection, month):
        return False
    for table in month.tables(connection):
        connection.execute(text(f"DROP TABLE {table}"))
    for statement in _SIDE:
        connection.execute(statement, month.range)
    if not keep_objects:
        discard_objects(connection, [month_prefix(month.suffix)])
    return True


_OLD = {
    "audit_events": "DELETE FROM audit_event WHERE id IN (SELECT id FROM audit_event WHERE at < :before ORDER BY at LIMIT :n)",
    # The proof that a time has fired is needed as long as somebody may ask for it: a backfill that leaves out what has run.
    "fires": "DELETE FROM fire WHERE (trigger_id, logical_date) IN (SELECT trigger_id, logical_date FROM fire"
    " WHERE fired_at < :before AND logical_date < :before LIMIT :n)",
}


def delete_old(connection: Connection, what: str, before: datetime) -> int:
    """Delete a batch of what lies before a time: `audit_events` or `fires`; how many."""
    return connection.execute(text(_OLD[what]), {"before": before, "n": _BATCH}).rowcount


_COUNT_OLD = {
    "audit_events": "SELECT count(*) FROM audit_event WHERE at < :before",
    "fires": "SELECT count(*) FROM fire WHERE fired_at < :before AND logical_date < :before",
}


def count_old(connection: Connection, what: str, before: datetime) -> int:
    """How much `delete_old` would delete altogether."""
    return int(connection.execute(text(_COUNT_OLD[what]), {"before": before}).scalar_one())

"""Monthly partitions of the history tables (ENGINE 1): a month is dropped as a whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from agentflow.db.models.history import PARTITIONED
from agentflow.ids import uuid7_floor

MONTHS_AHEAD = 3
_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}}_\d{{2}}|default)")
#: ENGINE 8: room for HOT updates, vacuum early.
_OPTIONS = "fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05"
_APPEND_ONLY = ("output", "log_chunk", "run_event")


def is_partition(table: str) -> bool:
    """Whether a table name is one of our partitions (they are not in the models)."""
    return _NAME.fullmatch(table) is not None


def month_start(at: datetime, offset: int = 0) -> datetime:
    """The first instant of the month `offset` months after the one that holds `at`."""
    number = at.year * 12 + at.month - 1 + offset
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def partition_statements(at: datetime) -> list[str]:
    """DDL that makes each history table's partition for the month of `at`, if it is not there."""
    start, end = month_start(at), month_start(at, 1)
    low, high = uuid7_floor(start), uuid7_floor(end)
    return [
        f"CREATE TABLE IF NOT EXISTS {table}_{start:%Y_%m} PARTITION OF {table} FOR VALUES FROM ('{low}') TO ('{high}')"
        + ("" if table in _APPEND_ONLY else f" WITH ({_OPTIONS})")
        for table in PARTITIONED
    ]


def default_statements() -> list[str]:
    """DDL of the default partitions: rows there mean that the months ahead were not made in time."""
    return [f"CREATE TABLE IF NOT EXISTS {table}_default PARTITION OF {table} DEFAULT" for table in PARTITIONED]


def ensure_partitions(connection: Connection, now: datetime, *, months: int = MONTHS_AHEAD) -> list[str]:
    """Make this month's partitions and the next `months`; returns the names that were made."""
    made = []
    existing = {
        str(name)
        for name in connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relispartition AND relname ~ '_[0-9]{4}_[0-9]{2}$'"
            )
        )
    }
    for offset in range(months + 1):
        month = month_start(now, offset)
        wanted = {f"{table}_{month:%Y_%m}" for table in PARTITIONED}
        if wanted <= existing:
            continue
        for statement in partition_statements(month):
            connection.execute(text(statement))
        made += sorted(wanted - existing)
    return made


def rows_in_default(connection: Connection) -> bool:
    """Whether any run landed in a default partition: an alarm."""
    return bool(connection.scalar(text("SELECT EXISTS (SELECT 1 FROM run_default)")))

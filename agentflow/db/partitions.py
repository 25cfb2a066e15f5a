"""Monthly partitions of the history tables (ENGINE 1): a month is dropped as a whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from agentflow.db.models.history import PARTITIONED
from agentflow.ids import uuid7_floor

MONTHS_AHEAD = 3
ADVISORY_LOCK = 0x4146_5054  # "AFPT"; any constant that nobody else uses
LOCK_TIMEOUT = "5s"
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


def ensure_partitions(connection: Connection, now: datetime, *, months: int = MONTHS_AHEAD) -> list[str]:
    """Make this month's partitions and the next `months`; returns the names that were made.

    A month whose rows landed in the default partitions, because it was not made in time, takes them over.
    """
    wanted = [(table, month_start(now, offset)) for offset in range(months + 1) for table in PARTITIONED]
    if {_name(*one) for one in wanted} <= _existing(connection):
        return []
    # DDL locks out everybody: one process at a time, and rather fail (and try again) than let others queue behind it.
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    existing = _existing(connection)
    made = []
    for table, month in wanted:
        if _name(table, month) not in existing:
            _make(connection, table, month)
            made.append(_name(table, month))
    return made


def _name(table: str, month: datetime) -> str:
    return f"{table}_{month:%Y_%m}"


def _existing(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relispartition")))


def _make(connection: Connection, table: str, month: datetime) -> None:
    name, key = _name(table, month), "id" if table == "run" else "run_id"
    low, high = uuid7_floor(month), uuid7_floor(month_start(month, 1))
    options = "" if table in _APPEND_ONLY else f" WITH ({_OPTIONS})"
    misplaced = f"FROM {table}_default WHERE {key} >= '{low}' AND {key} < '{high}'"
    bounds = f"FOR VALUES FROM ('{low}') TO ('{high}')"
    if not connection.scalar(text(f"SELECT EXISTS (SELECT 1 {misplaced})")):
        connection.execute(text(f"CREATE TABLE {name} PARTITION OF {table} {bounds}{options}"))
        return
    connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL){options}"))
    connection.execute(text(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE"))
    connection.execute(text(f"INSERT INTO {name} SELECT * {misplaced}"))
    connection.execute(text(f"DELETE {misplaced}"))
    connection.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} {bounds}"))


def rows_in_default(connection: Connection) -> bool:
    """Whether any run landed in a default partition: an alarm."""
    return bool(connection.scalar(text("SELECT EXISTS (SELECT 1 FROM run_default)")))

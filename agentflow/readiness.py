"""Whether the system can run workflows: its database, its schema, a living scheduler."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import psycopg

from agentflow.health import Check
from agentflow.postgres import libpq_url
from agentflow.states import SCHEDULER_DEAD

CONNECT_TIMEOUT = 3  # seconds

_ALIVE = """
SELECT count(*) FROM scheduler
WHERE state = 'alive' AND beat_at > now() - make_interval(secs => %s) AND cardinality(queues) > 0
  AND (%s::int IS NULL OR pid = %s)
"""


def readiness(url: str, *, pid: int | None = None) -> Sequence[Check]:
    """The checks in the order in which they come true; after the first failure the others are not tried.

    Args:
        url: Of the database; empty while there is none yet.
        pid: Count only the scheduler with this process id.
    """
    if not url:
        return [Check("database", ok=False, detail="starting")]
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=CONNECT_TIMEOUT, autocommit=True) as connection:
            checks = [Check("database", ok=True), _schema(connection)]
            if checks[-1].ok:
                checks.append(_scheduler(connection, pid))
            return checks
    except psycopg.OperationalError:
        return [Check("database", ok=False, detail="cannot be reached")]  # why would name hosts and users


@functools.cache
def _needed() -> str:
    from agentflow.db import migrate

    return migrate.head()


def _schema(connection: psycopg.Connection[tuple[str]]) -> Check:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    found = row[0] if row else "no schema"
    return Check("migrations", ok=found == _needed(), detail=found)


def _scheduler(connection: psycopg.Connection[tuple[str]], pid: int | None) -> Check:
    row = connection.execute(_ALIVE, [SCHEDULER_DEAD, pid, pid]).fetchone()
    count = int(row[0]) if row else 0
    return Check("scheduler", ok=count > 0, detail=f"{count} alive")

"""Alembic's entry: one migration at a time over all processes, never waiting long for a lock (ENGINE, STYLE 1.3)."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from agentflow.db.engine import make_engine
from agentflow.db.models import Model
from agentflow.db.partitions import is_partition

ADVISORY_LOCK = 0x4146_4D49  # "AFMI"; any constant that nobody else uses
LOCK_TIMEOUT = "10s"  # a migration that cannot get a table's lock fails instead of queueing every reader behind it
STATEMENT_TIMEOUT = "15min"


def _include(name: str | None, kind: str, _parents: object) -> bool:
    return not (kind == "table" and name is not None and is_partition(name))


def _migrate(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    try:
        # Session-wide, before Alembic's own transactions begin.
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Model.metadata,
            include_name=_include,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


def _run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    url = context.config.get_main_option("sqlalchemy.url") or context.get_x_argument(as_dictionary=True).get("url", "")
    if not url:
        raise SystemExit(
            "give the database: alembic -x url=postgresql://… upgrade head (or use `agentflow db upgrade`)"
        )
    with make_engine(url).connect() as connection:
        _migrate(connection)


_run()

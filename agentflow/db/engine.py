"""Engines and transactions. One SQLAlchemy engine a process; psycopg 3 underneath."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

T = TypeVar("T")

CONNECT_TIMEOUT = 5  # seconds
#: Deadlock and serialisation failures: the transaction may simply be run again (ENGINE 3).
_RETRIABLE = frozenset({"40P01", "40001"})
RETRIES = 5
#: Connection broken (class 08), shutdown and start-up (57P), no room on disk or for a connection, I/O error, standby.
_UNAVAILABLE = ("08", "57P", "53100", "53300", "58030", "25006")
#: Errors over what was given: too many rows, a value, a constraint, a limit of Postgres, a trigger's refusal.
_OVER_DATA = ("21", "22", "23", "54", "P0")


#: Short statements over keys, run again and again: one plan for all parameters, and always by index. The planner's
#: statistics lag behind a run that has just been created, and a scan that was right for an empty table is fatal later.
#: Joins run in the order in which they are written, which follows the keys; without knowing the parameters the planner
#: would rather begin with a node number, over all versions there are.
KEYED = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "join_collapse_limit": "1",
    # With statistics from before a run, joining all of its nodes in one go looks cheaper than finding a few by key.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
#: A scheduler that is stopped (SIGSTOP, a sleeping machine) in the middle of a transaction must give its locks back
#: before others declare it dead: their work, and writing off its attempts, waits for them.
GIVE_UP_LOCKS = {"idle_in_transaction_session_timeout": "5s"}


def make_engine(
    url: str,
    *,
    pool_size: int = 8,
    overflow: int = 4,
    application_name: str = "agentflow",
    keyed: bool = False,
    role: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Engine:
    """An engine on this database; connects lazily.

    Args:
        url: SQLAlchemy address.
        pool_size: Connections kept open.
        overflow: More at once than that, closed after use.
        application_name: Shown in pg_stat_activity.
        keyed: For the scheduler: see KEYED and GIVE_UP_LOCKS.
        role: The database role that its sessions take, which the user must be a member of.
        options: More settings of its sessions.
    """
    session = {"timezone": "UTC", "jit": "off"} | (KEYED | GIVE_UP_LOCKS if keyed else {}) | dict(options or {})
    if role is not None:
        session["role"] = role
    target = make_url(url).set(drivername="postgresql+psycopg")
    return create_engine(
        target,
        pool_size=pool_size,
        max_overflow=overflow,
        pool_pre_ping=False,  # the engine loop handles a broken connection itself; a ping would double its round trips
        pool_recycle=1800,
        pool_use_lifo=True,  # the connection used last has the statements prepared; planning them costs more than running
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": application_name,
            "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
            "prepare_threshold": 2 if keyed else 5,
            "keepalives_idle": 30,
        },
    )


def track_backends(engine: Engine) -> set[int]:
    """The process ids of the engine's backends, kept up to date: a listener tells its own echo by them."""
    backends: dict[object, int] = {}
    live: set[int] = set()

    def opened(connection: psycopg.Connection, record: object) -> None:
        backends[record] = connection.info.backend_pid
        live.add(connection.info.backend_pid)

    def closed(_connection: psycopg.Connection, record: object) -> None:
        live.discard(backends.pop(record, 0))

    event.listen(engine, "connect", opened)
    event.listen(engine, "close", closed)
    event.listen(engine, "invalidate", lambda connection, record, _error: closed(connection, record))
    return live


def is_disconnect(error: BaseException) -> bool:
    """Whether the database went away or can store nothing now: the same work may be tried again, later."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, OperationalError | InterfaceError):
        state = getattr(error.orig, "sqlstate", None)
        return state is None or state.startswith(_UNAVAILABLE)  # None: the socket broke before a code came
    return False


def is_database(error: BaseException) -> bool:
    """Whether the database, or the way to it, has trouble of its own: the same work will do later.

    A refusal is none: it may be over one row, and would come again.
    """
    if isinstance(error, DBAPIError):
        return is_disconnect(error) or is_retriable(error)
    return isinstance(error, SQLAlchemyError)  # no connection was free, say


def is_over_data(error: BaseException) -> bool:
    """Whether the database refused what it was given: it would do so again."""
    if isinstance(error, DataError):
        return True  # also those that no server has seen
    return isinstance(error, DBAPIError) and (getattr(error.orig, "sqlstate", None) or "").startswith(_OVER_DATA)


def is_retriable(error: BaseException) -> bool:
    """Whether a transaction lost against another one (deadlock, serialisation) and may simply be run again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRIABLE


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction; deadlocks and serialisation failures are retried with a short random pause."""
    for remaining in reversed(range(RETRIES)):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if remaining == 0 or not is_retriable(error):
                raise
            time.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - spreads two rivals, no secret
    raise AssertionError("unreachable")  # pragma: no cover

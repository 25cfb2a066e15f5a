"""What commands work with: the settings, the database with a current schema, and transactions on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from agentflow.cli import output
from agentflow.errors import DatabaseUnreachable, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from agentflow.cli.local import LocalApi
    from agentflow.client import Client
    from agentflow.postgres import DatabaseHandle
    from agentflow.settings import Settings

    #: What commands work with: the database here, or a webserver. mypy holds both to what the commands ask.
    Api = LocalApi | Client

T = TypeVar("T")

PATIENCE = 60.0  #: Seconds that a command which follows a run waits for a database that went away.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between tries


@dataclass(frozen=True, slots=True)
class Session:
    """An open database for the length of one command."""

    settings: Settings
    handle: DatabaseHandle
    engine: Engine

    @property
    def url(self) -> str:
        """SQLAlchemy address of the database, with its password."""
        return self.handle.url

    def do(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction; deadlocks are retried."""
        from agentflow.db.engine import transact

        return transact(self.engine, work)

    def do_patiently(self, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
        """As `do`, for work that may be repeated: a database that goes away meanwhile is waited for.

        The embedded server is started again if it was killed.
        """
        from sqlalchemy.exc import DBAPIError

        from agentflow.db.engine import is_disconnect

        deadline = time.monotonic() + patience
        pause, told = _FIRST_PAUSE, False
        while True:
            try:
                return self.do(work)
            except DBAPIError as error:
                if not is_disconnect(error) or time.monotonic() >= deadline:
                    raise
            if not told:
                output.note("the database is gone; waiting for it to come back")
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._revive()

    def _revive(self) -> None:
        before = self.handle.url
        if self.handle.ensure_running() != before:
            raise DatabaseUnreachable(
                "The embedded database was restarted at another address: its port had been taken.",
                hint="start the command again",
            )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading more than one transaction's retry could repeat, such as a long log."""
        with self.engine.connect() as connection:
            yield connection

    @property
    def workspace(self) -> str:
        """Whose workflows these are."""
        return self.settings.workspace

    @property
    def actor(self) -> str:
        """Who acts, for the audit log."""
        return self.settings.identity


def settings() -> Settings:
    """The settings of this process; the log of a command stays quiet below WARNING."""
    from agentflow import log
    from agentflow.settings import load_settings

    found = load_settings()
    log.configure(found, at_least="WARNING")
    return found


@contextmanager
def api() -> Iterator[Api]:
    """What a command works with: the webserver of AGENTFLOW_API_URL, or else the database.

    Raises:
        ApiUnreachable, DatabaseUnreachable, DatabaseNotReady: As the other functions here, and at any call.
    """
    found = settings()
    if found.api_url:
        with remote(found) as client:
            yield client
        return
    with session() as opened:
        from agentflow.cli.local import LocalApi

        yield LocalApi(opened)


def remote(found: Settings) -> Client:
    """A client of the webserver that the settings name."""
    from agentflow.client import Client

    # A key is good for one workspace, which need not be named.
    workspace = found.workspace if "workspace" in found.model_fields_set else None
    return Client(found.api_url, api_key=found.api_key or None, workspace=workspace)


def require_database(what: str) -> None:
    """Refuse what works on a database and on nothing else, where the settings name only a webserver.

    Raises:
        UsageError: Says so.
    """
    found = settings()
    if found.api_url and not found.database_url:
        raise UsageError(
            f"{what} works on the database itself, not through the webserver of AGENTFLOW_API_URL.",
            hint="set AGENTFLOW_DATABASE_URL to that database; for the embedded one, unset AGENTFLOW_API_URL",
        )


def note_local(what: str) -> None:
    """Tell that a command works here although the settings name a webserver."""
    found = settings()
    if found.api_url:
        output.note(f"{what} works here, not on {found.api_url} (AGENTFLOW_API_URL)")


@contextmanager
def session(*, migrate: bool = True) -> Iterator[Session]:
    """The database: the one of the settings, or the embedded server, started if nobody has.

    Args:
        migrate: Whether the schema must be the one this version needs. The embedded server's is brought there; an
            external one's is only checked, since other versions may be at work on it.

    Raises:
        DatabaseUnreachable: It does not answer, or went away meanwhile.
        DatabaseNotReady: An external database has another schema.
    """
    found = settings()
    from agentflow.postgres import database

    with database(found) as handle, _translated_errors():
        from agentflow.db.engine import make_engine

        engine = make_engine(handle.url, pool_size=2, application_name="agentflow-cli")
        try:
            if migrate:
                _require_schema(engine, handle.url, embedded=not found.database_url)
            yield Session(found, handle, engine)
        finally:
            engine.dispose()


@contextmanager
def _translated_errors() -> Iterator[None]:
    from sqlalchemy.exc import DBAPIError

    from agentflow.db.engine import is_disconnect

    try:
        yield
    except DBAPIError as error:
        if not is_disconnect(error):
            raise
        reason = str(error.orig or error).strip().splitlines() or ["no reason given"]
        raise DatabaseUnreachable(
            f"The database cannot be reached: {reason[-1].strip()}", hint="`agentflow doctor` tells more"
        ) from error


def _require_schema(engine: Engine, url: str, *, embedded: bool) -> None:
    from agentflow.db import migrate

    with engine.connect() as connection:
        if migrate.current(connection) == migrate.head():
            return
        if not embedded:
            migrate.require_current(connection)
    upgrade(url)


def upgrade(url: str) -> None:
    """Bring a database to the schema of this version.

    Raises:
        DatabaseNotReady: A newer version has changed the schema, or others hold its tables.
    """
    from agentflow.db import migrate

    migrate.upgrade(url)

"""Which database this process uses: the one of `AGENTFLOW_DATABASE_URL`, else the embedded one of the home."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import psycopg

from agentflow.errors import DatabaseNotReady, DatabaseUnreachable, SettingsError
from agentflow.postgres.embedded import STOP_TIMEOUT, EmbeddedPostgres
from agentflow.settings import Settings

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5  # seconds, for each address of the host
OLDEST, NEWEST = 16, 18  # major versions of Postgres


@dataclass(slots=True)
class DatabaseHandle:
    """The database of this process, for as long as the `database` block lasts."""

    url: str = field(repr=False)  #: SQLAlchemy address, with the password.
    embedded: EmbeddedPostgres | None = None  #: None: a server that AgentFlow does not manage.
    stop_timeout: float = STOP_TIMEOUT  #: Seconds that leaving may take; the owner may shorten it.

    def ensure_running(self) -> str:
        """Start the embedded server again if it was killed; returns the address, which may have changed.

        Raises:
            DatabaseUnreachable: It does not start.
        """
        if self.embedded is not None:
            self.url = self.embedded.ensure_running()
        return self.url

    @property
    def place(self) -> str:
        """The address without the password, for people."""
        return without_password(self.url)


@contextmanager
def database(settings: Settings) -> Iterator[DatabaseHandle]:
    """The database in force. An embedded server is started if need be and shared with other users of the home.

    Raises:
        DatabaseUnreachable: No server answers.
        DatabaseNotReady: The server's version or data does not fit.
        SettingsError: The home cannot be used.
    """
    if settings.database_url:
        url = normalise_url(settings.database_url)
        check_server(url)
        yield DatabaseHandle(url)
        return
    embedded = EmbeddedPostgres(settings.home, major=settings.embedded_postgres_major)
    embedded.attach()
    handle = DatabaseHandle(embedded.url, embedded)
    try:
        yield handle
    finally:
        embedded.detach(handle.stop_timeout)


def normalise_url(url: str) -> str:
    """The address with the scheme by which SQLAlchemy finds psycopg 3."""
    scheme, _, rest = url.partition("://")
    if not re.fullmatch(r"postgres(ql)?(\+psycopg)?", scheme) or not rest:
        raise SettingsError(
            "AGENTFLOW_DATABASE_URL must look like postgresql://user:password@host:5432/database",
            hint="AgentFlow runs on Postgres 16 to 18 only",
        )
    return f"postgresql+psycopg://{rest}"


def libpq_url(url: str) -> str:
    """The same address for psycopg itself, `psql` and `pg_dump`."""
    return f"postgresql://{normalise_url(url).partition('://')[2]}"


def without_password(url: str) -> str:
    """The address fit for logs and terminals: no password and no query, which may hold one, too."""
    parts = urlsplit(libpq_url(url))
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}", query=""))


def check_server(url: str) -> None:
    """Log in once and look at the version.

    Raises:
        DatabaseUnreachable: No login within `CONNECT_TIMEOUT` seconds for each address of the host.
        DatabaseNotReady: The server is older or newer than AgentFlow supports.
    """
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=CONNECT_TIMEOUT) as connection:
            version = connection.info.server_version
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise DatabaseUnreachable(
            f"{without_password(url)} cannot be reached: {str(error).strip()}",
            hint="check AGENTFLOW_DATABASE_URL and that the server runs; without it AgentFlow uses its embedded Postgres",
        ) from error
    major = version // 10_000
    if not OLDEST <= major <= NEWEST:
        raise DatabaseNotReady(
            f"{without_password(url)} is Postgres {major}; AgentFlow runs on {OLDEST} to {NEWEST}",
            hint="point AGENTFLOW_DATABASE_URL to a server of a supported version, or unset it to use the embedded one",
        )

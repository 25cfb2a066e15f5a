"""The embedded server of one home, shared by every AgentFlow process that uses the home (ENGINE 14).

Users hold a shared lock; start-up and the last one's farewell happen under an exclusive one. Alive means: a login with
our password reaches a server on our data directory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from agentflow.errors import DatabaseNotReady, DatabaseUnreachable, SettingsError
from agentflow.home import make_home
from agentflow.locks import POLL, FileLock, LockTimeout
from agentflow.postgres.access import Access
from agentflow.postgres.account import server_account
from agentflow.postgres.binaries import DEFAULT_MAJOR, find_binaries, usable_binaries
from agentflow.postgres.cluster import Cluster

logger = logging.getLogger(__name__)

DATABASE = "agentflow"
START_TIMEOUT = 60.0  # seconds; recovery after a crash replays at most a few GB
STOP_TIMEOUT = 10.0  # seconds
START_TRIES = 5
SAME_PORT_TRIES = 2  # the second covers a passing trouble; after that another port is tried


class EmbeddedPostgres:
    """Manager of the server under `home`.

    Files of the home: `postgres/` (data, owned by the server's account), `postgres.password` (0600), `postgres.port`,
    `postgres.log`, the locks `postgres.alive`, `postgres.users` and `postgres.start`, and `pgsql-<version>` (a copy of
    the programs, only if needed).
    """

    def __init__(self, home: Path, *, major: int = DEFAULT_MAJOR, settings: Mapping[str, str] | None = None) -> None:
        self.home = home.expanduser().resolve()
        self._major = major
        self._settings = dict(settings or {})
        self._access = Access(self.home)
        self._users = FileLock(self.home / "postgres.users")
        self._cluster: Cluster | None = None

    @property
    def url(self) -> str:
        """SQLAlchemy address of the database; valid while attached."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """SQLAlchemy address of another database on this server."""
        return self._access.url(database)

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.home / "postgres.log"

    def program(self, name: str) -> Path:
        """Path of a client program such as `pg_dump` or `psql` of the server's version."""
        return find_binaries(self._major).program(name)

    def attach(self) -> None:
        """Become a user of the server, starting it if need be. Pair with `detach`.

        Raises:
            DatabaseUnreachable: It does not start or does not answer.
            DatabaseNotReady: Its data cannot be used by this version.
            SettingsError: The home cannot be used.
        """
        make_home(self.home)
        with self._start_lock():
            self._users.acquire("shared", START_TIMEOUT)
            try:
                self._ensure()
            except BaseException:
                self._leave(STOP_TIMEOUT)
                raise

    def ensure_running(self) -> str:
        """Start the server again if it was killed; returns the address, whose port may have changed.

        Raises like `attach`.
        """
        if not self._answers():
            with self._start_lock():
                self._ensure()
        return self.url

    def detach(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop being a user; the last one out stops the server. May be called twice.

        Args:
            timeout: Seconds to wait for the server's end; after that it goes on shutting down by itself.
        """
        if not self._users.held:
            self._users.release()  # a forked child drops its copy only
            return
        try:
            with self._start_lock(max(timeout, 1.0)):
                self._leave(timeout)
        except DatabaseUnreachable:  # somebody is starting it right now, so we are not the last
            self._users.release()

    def _leave(self, timeout: float) -> None:
        # Under the start lock: nobody can join between our farewell and the stop.
        self._users.release()
        last = self._users.try_acquire("exclusive")
        self._users.release()
        if last and self._cluster is not None:
            self._cluster.stop(timeout)

    @contextmanager
    def _start_lock(self, timeout: float = START_TIMEOUT) -> Iterator[None]:
        lock = FileLock(self.home / "postgres.start")
        try:
            lock.acquire("exclusive", timeout)
        except LockTimeout as error:
            raise DatabaseUnreachable(
                f"Another process has been starting or stopping the embedded Postgres for {timeout:.0f} s",
                hint=f"see {self.log}",
            ) from error
        except PermissionError as error:
            raise SettingsError(
                f"AGENTFLOW_HOME: {self.home} belongs to another user", hint="set AGENTFLOW_HOME to a folder of yours"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _ensure(self) -> None:
        """Bring the server to the point where it answers. The caller holds the start lock."""
        cluster = self._prepare()
        deadline = time.monotonic() + START_TIMEOUT
        starts = 0
        while not self._answers():
            if not cluster.alive():
                if starts == START_TRIES:
                    raise DatabaseUnreachable("The embedded Postgres does not start", hint=cluster.log_tail())
                starts += 1
                port = self._access.choose_port(new=starts > SAME_PORT_TRIES)
                logger.info("postgres_start", extra={"port": port, "data": str(cluster.data), "try": starts})
                cluster.start(port, self._settings)
            elif time.monotonic() >= deadline:
                raise DatabaseUnreachable(
                    f"The embedded Postgres runs but has not answered for {START_TIMEOUT:.0f} s",
                    hint=cluster.log_tail(),
                )
            time.sleep(POLL)

    def _prepare(self) -> Cluster:
        """The cluster, with its data made."""
        if self._cluster is None:
            account = server_account()
            binaries = usable_binaries(find_binaries(self._major), account, self.home)
            self._cluster = Cluster(self.home, binaries, account)
        if not self._access.password_file.exists():
            if self._cluster.exists():
                raise DatabaseNotReady(
                    f"{self._access.password_file} is gone, and with it the way into {self._cluster.data}",
                    hint="restore that file from a backup, or move the data away to begin anew",
                )
            self._access.make_password()
        self._cluster.create(self._access.password(), sync=self._settings.get("fsync") != "off")
        return self._cluster

    def _answers(self) -> bool:
        """Whether a login with our password reaches a server on our data directory."""
        cluster = self._cluster
        if cluster is None or not cluster.alive() or not self._access.port():
            return False  # and a stranger on our port is not offered a login
        try:
            with self._access.login("postgres") as connection:
                if not _serves(connection, cluster.data):
                    return False
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.errors.DuplicateDatabase:
            return True
        except psycopg.OperationalError as error:
            # libpq hands over no code for a refused login, only the server's text.
            if "password authentication failed" in str(error) and cluster.listens_on(self._access.port()):
                raise DatabaseNotReady(
                    f"The embedded Postgres refuses the password in {self._access.password_file}",
                    hint="restore that file from a backup",
                ) from error
            return False
        return True


def _serves(connection: psycopg.Connection[tuple[str]], data: Path) -> bool:
    # A copied home has the same password and port: its first start must not end up in the original's server.
    row = connection.execute("SELECT current_setting('data_directory')").fetchone()
    return row is not None and Path(row[0]) == data

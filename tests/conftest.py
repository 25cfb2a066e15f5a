"""Real Postgres for every test that asks for it: one server, one migrated template, a fresh copy for each test.

`AGENTFLOW_TEST_DATABASE_URL` (a superuser's) names a server to use; without it the embedded one starts in a temporary
home, shared by all xdist workers. `AGENTFLOW_EMBEDDED_POSTGRES_MAJOR` = 16 or 18 chooses its version.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine

from agentflow.access.passwords import Cost
from agentflow.errors import AgentFlowError
from agentflow.postgres import EmbeddedPostgres, check_server, libpq_url, normalise_url
from agentflow.postgres.config import UNSAFE_FAST
from executors.processes.nursery import remove_tree

if TYPE_CHECKING:
    from tests.auth_kit import AuthKit
    from tests.redis_kit import RedisServer
    from tests.web_kit import WebKit

#: Advisory locks on the database `postgres`: making the template, and being one of its users.
MAKING, USING = 0x4146_5431, 0x4146_5432
#: The same in all xdist workers of one test run.
SESSION = pytest.StashKey[str]()


@dataclass(frozen=True)
class PostgresServer:
    """A server on which tests may create databases."""

    url: str  #: SQLAlchemy address of an existing database, as superuser.
    embedded: EmbeddedPostgres | None

    def url_of(self, database: str) -> str:
        """The address of another database of the server."""
        head, _, rest = self.url.rpartition("/")
        _, mark, query = rest.partition("?")
        return f"{head}/{database}{mark}{query}"

    def admin(self) -> psycopg.Connection:
        """An autocommit connection for CREATE and DROP DATABASE."""
        return psycopg.connect(libpq_url(self.url), autocommit=True, connect_timeout=10)


def _home(config: pytest.Config) -> Path:
    return Path(tempfile.gettempdir(), f"agentflow-tests-{config.stash[SESSION]}")


def pytest_configure(config: pytest.Config) -> None:
    worker_input = getattr(config, "workerinput", None)
    config.stash[SESSION] = worker_input["agentflow_session"] if worker_input else secrets.token_hex(8)
    # Stopped by `timeout` or a CI system, tests end as by Ctrl-C, and with them what they have started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Binary data does not name a case: compressed data holds the time, and xdist's workers must agree on the names."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode("ascii").isprintable()) else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tell an xdist worker the name of the session it belongs to."""
    node.workerinput["agentflow_session"] = node.config.stash[SESSION]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The session's main process removes what its workers shared, after they are gone."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(_home(config), ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server; without one, tests are skipped here and fail in CI."""
    given = os.environ.get("AGENTFLOW_TEST_DATABASE_URL")
    embedded = None
    try:
        if given:
            check_server(given)
        else:
            major = int(os.environ.get("AGENTFLOW_EMBEDDED_POSTGRES_MAJOR", "18"))
            embedded = EmbeddedPostgres(_home(request.config), major=major, settings=UNSAFE_FAST)
            embedded.attach()
    except AgentFlowError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Postgres: {error} ({error.hint})")
    yield PostgresServer(normalise_url(given) if given else embedded.url, embedded)
    if embedded is not None:
        embedded.detach()


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a migrated database to copy, made once for all xdist workers; the last user drops it."""
    from agentflow.db import migrate

    name = f"agentflow_template_{request.config.stash[SESSION]}"
    with postgres_server.admin() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [MAKING])
        admin.execute("SELECT pg_advisory_lock_shared(%s, hashtext(%s))", [USING, name])
        if admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            # Under another name until it is whole, so that a failed migration is not taken for a template.
            partial = sql.Identifier(f"{name}_partial")
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(partial))
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(partial))
            migrate.upgrade(postgres_server.url_of(f"{name}_partial"))
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(partial, sql.Identifier(name)))
        admin.execute("SELECT pg_advisory_unlock(%s)", [MAKING])
        yield name
        admin.execute("SELECT pg_advisory_lock(%s)", [MAKING])
        admin.execute("SELECT pg_advisory_unlock_shared(%s, hashtext(%s))", [USING, name])
        if admin.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [USING, name]).fetchone() == (True,):
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without a schema, dropped after the test."""
    yield from _database(postgres_server, "template0")


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """A migrated, empty database, dropped after the test."""
    yield from _database(postgres_server, template_database)


def _database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"agentflow_test_{secrets.token_hex(6)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with server.admin() as admin:
        admin.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
    yield server.url_of(name)
    with server.admin() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a migrated, empty database."""
    from agentflow.db.engine import make_engine

    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def shared_engine(postgres_server: PostgresServer, template_database: str) -> Iterator[Engine]:
    """An engine on a migrated database that a module's tests share, through `connection`."""
    from agentflow.db.engine import make_engine

    for url in _database(postgres_server, template_database):
        engine = make_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def connection(shared_engine: Engine) -> Iterator[Connection]:
    """A transaction on a migrated database, rolled back after the test: cheaper than a database of its own."""
    with shared_engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of this process."""
    from tests.redis_kit import RedisServer

    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_process: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A Redis that answers and is empty; a test may kill it. On a crowded machine it is waited for longer than elsewhere."""
    monkeypatch.setattr("webserver.shared.link.TIMEOUT", 2.0)
    monkeypatch.setattr("webserver.shared.link.SLOW", 10.0)
    redis_process.start()
    with redis_process.client() as client:
        client.flushall()
    return redis_process


@pytest.fixture(autouse=True, scope="session")
def cheap_passwords() -> Iterator[None]:
    """Passwords are hashed in no time; one test looks at the real cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentflow.access.passwords.COST", Cost(memory_kib=8, passes=1, lanes=1))
        yield


@pytest.fixture
def web(engine: Engine, tmp_path: Path) -> Iterator[WebKit]:
    """The web server's app on a migrated, empty database; an admin of the workspace `default` calls it."""
    from tests.web_kit import WebKit

    kit = WebKit(engine, tmp_path)
    yield kit
    kit.close()


@pytest.fixture
def auth_web(engine: Engine, tmp_path: Path) -> Iterator[AuthKit]:
    """The web server's app on a migrated, empty database, with its real way to recognise people."""
    from tests.auth_kit import AuthKit

    kit = AuthKit(engine, tmp_path)
    yield kit
    kit.close()


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A home that every user may enter (pytest's own temporary folders are closed to other users)."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-home-"))
    folder.chmod(0o755)
    yield folder / "home"
    remove_tree(folder)  # extracted bundles are read-only


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the benchmarks, which are scripts beside each other and no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    return importlib.import_module

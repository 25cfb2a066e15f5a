"""The schema: models and migrations agree, up and down keep their promises, on every supported major version."""

from __future__ import annotations

import multiprocessing
import secrets
import shutil
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

import agentflow
from agentflow.catalog import apply_spec
from agentflow.db import migrate, tenancy
from agentflow.db.engine import make_engine
from agentflow.db.models import Model
from agentflow.db.models.history import PARTITIONED
from agentflow.db.queries.queued import start_waiting
from agentflow.errors import DatabaseNotReady
from agentflow.postgres import EmbeddedPostgres, libpq_url
from agentflow.postgres.config import UNSAFE_FAST
from agentflow.runs import create_run
from agentflow.spec import parse_text
from agentflow.states import TriggeredBy

SPEC = b"""
name: filled
params: {city: {type: string, default: Berlin}}
triggers: [{type: cron, cron: "0 6 * * *"}]
nodes:
  a: {type: noop}
  b: {type: noop, needs: [a]}
"""


@pytest.fixture(scope="module", params=[16, 18], ids=["postgres16", "postgres18"])
def server_url(request, postgres_server):
    """Addresses of databases on a server of this major version."""
    with postgres_server.admin() as admin:
        major = admin.info.server_version // 10_000
    if major == request.param:
        yield postgres_server.url_of
        return
    folder = Path(tempfile.mkdtemp(prefix="agentflow-other-major-"))
    folder.chmod(0o755)
    embedded = EmbeddedPostgres(folder / "home", major=request.param, settings=UNSAFE_FAST)
    embedded.attach()
    yield embedded.url_of
    embedded.detach()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty(server_url):
    """Address of an empty database on each major version."""
    name = f"agentflow_migrations_{secrets.token_hex(6)}"
    with psycopg.connect(libpq_url(server_url("postgres")), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    yield server_url(name)
    with psycopg.connect(libpq_url(server_url("postgres")), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connect(empty):
    """Transactions on the database."""
    engine = make_engine(empty)
    yield engine.begin
    engine.dispose()


def tables(connection):
    return set(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))


def fill(connection):
    """A workflow with a trigger, and one run of it in its middle."""
    applied = apply_spec(connection, parse_text(SPEC, file="filled.yaml"), source="api", actor="test")
    create_run(connection, "filled", {}, triggered_by=TriggeredBy.CLI, actor="test")
    start_waiting(connection)
    return applied["version"]


def test_models_and_migrated_schema_are_the_same(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        assert migrate.differences(connection) == []


def test_the_comparison_of_models_and_schema_sees_a_difference(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        connection.execute(text("ALTER TABLE node_run DROP COLUMN losses"))
        connection.execute(text("DROP INDEX ix_node_run_ready"))
        assert len(migrate.differences(connection)) == 2


CATALOG = """
SELECT 'check', c.relname, x.conname, pg_get_constraintdef(x.oid) FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid
WHERE x.contype IN ('c', 'f', 'p', 'u') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', c.relname, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'column', c.relname, a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
  pg_get_expr(d.adbin, d.adrelid))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
"""


def test_the_database_s_own_catalog_is_the_same_from_models_and_from_migrations(empty, connect):
    """Alembic's comparison does not look at CHECKs, and they hold the state machine."""
    migrate.upgrade(empty)
    with connect() as connection:
        migrated = set(connection.execute(text(CATALOG)).all())
        connection.execute(text("DROP TABLE alembic_version"))
        Model.metadata.drop_all(connection)
        Model.metadata.create_all(connection)
        modelled = set(connection.execute(text(CATALOG)).all())
    assert {row for row in migrated if row[1] != "alembic_version"} == modelled
    assert len([row for row in modelled if row[0] == "check"]) > 40


def test_up_down_and_up_again_on_a_filled_database(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        fill(connection)
    migrate.downgrade(empty, "base")
    with connect() as connection:
        assert tables(connection) == {"alembic_version"}
        assert connection.scalar(text("SELECT count(*) FROM pg_type WHERE typname IN ('run', '_run')")) == 0
    migrate.upgrade(empty)
    with connect() as connection:
        assert migrate.differences(connection) == []
        assert fill(connection) == 1


def test_upgrading_again_keeps_everything(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        fill(connection)
        before = connection.execute(text("SELECT id, state FROM run")).all()
    migrate.upgrade(empty)
    with connect() as connection:
        assert connection.execute(text("SELECT id, state FROM run")).all() == before
        assert migrate.current(connection) == migrate.head()


def test_a_fresh_schema_has_the_default_workspace_and_pool(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        assert connection.execute(text("SELECT name FROM workspace")).all() == [("default",)]
        assert connection.execute(text("SELECT name, slots FROM pool")).all() == [("default", 128)]


def test_processes_that_migrate_at_once_wait_for_each_other(empty, connect):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate.upgrade, args=(empty,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with connect() as connection:
        migrate.require_current(connection)
        assert len([name for name in tables(connection) if name.startswith("run_2")]) == 4


def test_a_migration_waits_while_another_process_migrates(empty, connect):
    """The advisory lock itself: held elsewhere, nothing is changed until it is free."""
    namespace: dict[str, int] = {}
    source = (migrate.scripts_path() / "env.py").read_text()
    line = next(line for line in source.splitlines() if line.startswith("ADVISORY_LOCK"))
    exec(line, namespace)  # env.py itself runs a migration when it is imported
    done = threading.Event()

    def upgrade():
        migrate.upgrade(empty)
        done.set()

    thread = threading.Thread(target=upgrade)
    with psycopg.connect(libpq_url(empty), autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [namespace["ADVISORY_LOCK"]])
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while holder.execute(waiting).fetchone() == (0,):
            assert not done.wait(0.01)
        assert holder.execute("SELECT to_regclass('run')").fetchone() == (None,)
        holder.execute("SELECT pg_advisory_unlock_all()")
    thread.join(60)
    assert done.is_set()
    with connect() as connection:
        migrate.require_current(connection)


def test_a_table_in_use_stops_a_migration_instead_of_queueing_readers(empty, connect, monkeypatch, tmp_path):
    # The same migrations with a short lock timeout.
    copy = tmp_path / "migrations"
    shutil.copytree(migrate.scripts_path(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = (copy / "env.py").read_text()
    assert 'LOCK_TIMEOUT = "10s"' in environment
    (copy / "env.py").write_text(environment.replace('LOCK_TIMEOUT = "10s"', 'LOCK_TIMEOUT = "100ms"'))
    migrate.upgrade(empty)
    monkeypatch.setattr(migrate, "scripts_path", lambda: copy)
    monkeypatch.setattr(tenancy, "LOCK_TIMEOUT", "100ms")
    with connect() as reader:
        fill(reader)
        with pytest.raises(DatabaseNotReady, match="while others use it") as error:
            migrate.downgrade(empty, "base")
        assert "pg_stat_activity" in error.value.hint
        assert "run" in tables(reader)


@pytest.mark.parametrize("step", [migrate.upgrade, lambda url: migrate.downgrade(url, "base")], ids=["up", "down"])
def test_a_database_of_a_newer_version_is_left_alone(empty, connect, step):
    migrate.upgrade(empty)
    with connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    with pytest.raises(DatabaseNotReady, match=r"from_the_future.*newer AgentFlow") as error:
        step(empty)
    assert "install" in error.value.hint
    with connect() as connection:
        assert "run" in tables(connection)
        with pytest.raises(DatabaseNotReady, match="newer AgentFlow"):
            migrate.require_current(connection)


def test_a_database_without_a_schema_says_what_to_do(connect):
    with connect() as connection:
        with pytest.raises(DatabaseNotReady, match="no AgentFlow schema") as error:
            migrate.require_current(connection)
        assert "agentflow db upgrade" in error.value.hint


def test_a_stranger_s_tables_are_left_alone(empty, connect):
    with connect() as connection:
        connection.execute(text("CREATE TABLE theirs (id int)"))
    migrate.upgrade(empty)
    migrate.downgrade(empty, "base")
    with connect() as connection:
        assert tables(connection) == {"alembic_version", "theirs"}


def test_every_history_table_has_a_default_partition_and_its_key_starts_with_the_run(empty, connect):
    migrate.upgrade(empty)
    with connect() as connection:
        for table in PARTITIONED:
            assert connection.scalar(text(f"SELECT to_regclass('{table}_default') IS NOT NULL"))
            key = connection.scalar(
                text(
                    "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(:t) AND contype = 'p'"
                ),
                {"t": table},
            )
            assert key.startswith("PRIMARY KEY (id" if table == "run" else "PRIMARY KEY (run_id")
        foreign = text(
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND (conrelid = to_regclass(:t) OR confrelid = to_regclass(:t))"
        )
        assert [connection.scalar(foreign, {"t": table}) for table in PARTITIONED] == [0] * 6


def test_migrations_are_found_in_a_checkout_and_in_a_wheel(monkeypatch, tmp_path):
    assert (migrate.scripts_path() / "env.py").is_file()
    installed = tmp_path / "site-packages" / "agentflow"
    (installed / "_migrations").mkdir(parents=True)
    monkeypatch.setattr(agentflow, "__file__", str(installed / "__init__.py"))
    assert migrate.scripts_path() == installed / "_migrations"

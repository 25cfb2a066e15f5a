"""The roles of the database cluster: made by whoever may, explained to whoever may not."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine, text

from agentflow.cli.checks import check_roles
from agentflow.cli.context import Session
from agentflow.db import migrate
from agentflow.db.engine import make_engine
from agentflow.db.roles import ensure_roles
from agentflow.db.tenancy import ROLES, SCHEDULER, WEB
from agentflow.errors import DatabaseNotReady
from agentflow.postgres import EmbeddedPostgres, libpq_url
from agentflow.postgres.config import UNSAFE_FAST
from agentflow.settings import Settings
from tests.site_kit import Site, python
from tests.tenancy_kit import act_as


@pytest.fixture(scope="module")
def cluster():
    """A server of its own: roles belong to a whole cluster, and these tests need one without them."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-roles-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "home", settings=UNSAFE_FAST)
    server.attach()
    yield server
    server.detach()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def owned(cluster):
    """Call it with a user's rights to get the address of a new database that this user owns."""
    made = []

    def make(user, rights):
        with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' " + rights).format(sql.Identifier(user)))
            admin.execute(sql.SQL("CREATE DATABASE {0} OWNER {0} TEMPLATE template0").format(sql.Identifier(user)))
        made.append(user)
        address = cluster.url_of(user)
        return address.replace(address.partition("://")[2].partition("@")[0], f"{user}:x")

    yield make
    with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
        for user in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(user)))
        for role in ROLES:
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        for user in made:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def sees_only_its_workspace(url):
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            act_as(connection, WEB, 1)
            return connection.scalar(text("SELECT name FROM workspace")), connection.scalar(text("SELECT current_user"))
    finally:
        engine.dispose()


def test_an_owner_who_may_create_roles_makes_and_takes_them(owned):
    url = owned("chief", "CREATEROLE")
    migrate.upgrade(url)
    assert sees_only_its_workspace(url) == ("default", WEB)
    migrate.downgrade(url, "base")
    migrate.upgrade(url)
    assert sees_only_its_workspace(url) == ("default", WEB)


def test_an_owner_who_may_not_is_told_what_a_superuser_has_to_run(owned, cluster):
    url = owned("plain", "NOCREATEROLE")
    with pytest.raises(DatabaseNotReady) as caught:
        migrate.upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        tables = connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert tables == 0, "nothing was changed halfway"
    engine.dispose()
    advice = caught.value.hint.partition(": ")[2]
    with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
        admin.execute(advice)
    migrate.upgrade(url)
    assert sees_only_its_workspace(url) == ("default", WEB)


def test_roles_made_for_another_database_of_the_cluster_need_a_grant(owned, cluster):
    migrate.upgrade(owned("first", "CREATEROLE"))
    second = owned("second", "CREATEROLE")
    with pytest.raises(DatabaseNotReady) as caught:
        migrate.upgrade(second)
    assert "CREATE ROLE" not in caught.value.hint
    assert "GRANT agentflow_web, agentflow_auth, agentflow_scheduler TO second" in caught.value.hint
    with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
        admin.execute(caught.value.hint.partition(": ")[2])
    migrate.upgrade(second)
    assert sees_only_its_workspace(second) == ("default", WEB)


def test_databases_of_one_cluster_may_make_them_at_once(owned, cluster):
    """The second one waits for the first one's transaction, and then finds them made."""
    first, second = make_engine(owned("left", "SUPERUSER")), make_engine(owned("right", "SUPERUSER"))
    done = []

    def make():
        with second.begin() as connection:
            ensure_roles(connection)
            done.append(
                connection.scalar(text("SELECT count(*) FROM pg_roles WHERE rolname = ANY(:r)"), {"r": list(ROLES)})
            )

    with first.begin() as connection:
        ensure_roles(connection)
        thread = threading.Thread(target=make)
        thread.start()
        wait_until(lambda: waits_for_a_lock(cluster))
    thread.join()
    assert done == [len(ROLES)]
    first.dispose()
    second.dispose()


def waits_for_a_lock(cluster):
    with psycopg.connect(libpq_url(cluster.url)) as admin:
        return admin.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0] > 0


def wait_until(condition, patience=20.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- who takes them ------------------------------------------------------------------------------------------------------
def test_a_scheduler_works_as_its_role_and_an_ordinary_owner_makes_its_partitions(owned, tmp_path):
    url = owned("chief", "CREATEROLE")
    migrate.upgrade(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        last = connection.scalar(text("SELECT max(tablename) FROM pg_tables WHERE tablename LIKE 'node_run_20%'"))
        connection.execute(text(f"DROP TABLE {last}"))
    site = Site(url, tmp_path)
    try:
        run = site.trigger(
            {
                "name": "flow",
                "nodes": {
                    "a": python("def main():\n    print('said')\n    return [1, 2]\n"),
                    "b": python("def main(n):\n    return n\n", ["a"], for_each="{{ nodes.a.output }}",
                                config={"args": {"n": "{{ item }}"}}),
                    "c": {"type": "wait", "needs": ["b"], "config": {"for": "10ms"}},
                },
            }
        )  # fmt: skip
        assert site.end(run)["state"] == "success"
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname = :name"), {"name": last}) == 1
        with site.daemon.engine.begin() as connection:
            assert connection.scalar(text("SELECT current_user")) == SCHEDULER
            connection.execute(text("RESET ROLE"))
            assert connection.scalar(text("SELECT current_user")) == SCHEDULER
    finally:
        site.close()
        engine.dispose()


def test_a_scheduler_that_may_not_take_its_role_says_what_to_do(owned, cluster, tmp_path):
    url = owned("chief", "CREATEROLE")
    migrate.upgrade(url)
    with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
        admin.execute("REVOKE agentflow_scheduler FROM chief GRANTED BY chief")
    with pytest.raises(DatabaseNotReady, match="chief may not act as agentflow_scheduler") as caught:
        Site(url, tmp_path)
    assert "agentflow db upgrade" in caught.value.hint
    migrate.upgrade(url)
    Site(url, tmp_path / "again").close()


@pytest.fixture
def doctor():
    """What the doctor says of the roles, to whoever logs in at an address."""

    def look(url):
        engine = make_engine(url)
        try:
            return check_roles(Session(Settings(database_url=url), None, engine))
        finally:
            engine.dispose()

    return look


def test_the_doctor_says_what_is_wrong_with_the_roles(owned, cluster, doctor):
    url = owned("chief", "CREATEROLE")
    migrate.upgrade(url)
    assert doctor(url).status == "ok"
    with psycopg.connect(libpq_url(cluster.url), autocommit=True) as admin:
        admin.execute("ALTER ROLE agentflow_web BYPASSRLS")
        found = doctor(url)
        assert (found.status, found.detail) == ("failed", "no policy holds back agentflow_web")
        admin.execute(found.hint.partition(": ")[2])
        assert doctor(url).status == "ok"
        admin.execute("REVOKE agentflow_scheduler FROM chief GRANTED BY chief")
        found = doctor(url)
        assert (found.status, "may not act as agentflow_scheduler" in found.detail) == ("failed", True)
        admin.execute(found.hint.partition(": ")[2])
        assert doctor(url).status == "ok"
    with psycopg.connect(libpq_url(url), autocommit=True) as owner:
        owner.execute("COMMENT ON POLICY agentflow_scheduler ON run IS 'another version'")
        assert (doctor(url).status, doctor(url).hint) == ("failed", "run `agentflow db upgrade`")


def test_the_doctor_warns_of_a_superuser_that_is_not_ours(owned, doctor):
    url = owned("boss", "SUPERUSER")
    migrate.upgrade(url)
    found = doctor(url)
    assert (found.status, "is a superuser" in found.detail) == ("warning", True)

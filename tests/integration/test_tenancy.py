"""The database's own wall between workspaces, seen through the roles that the webserver takes."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime

import pytest
from psycopg import errors as pg
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from agentflow.db import tenancy
from agentflow.db.models import Model
from agentflow.db.models.history import SEARCH
from agentflow.db.partitions import ensure_partitions
from agentflow.db.tenancy import AUTH, SCHEDULER, TABLES, WEB
from agentflow.ids import uuid7
from agentflow.objects.names import archive_prefix, month_prefix, run_prefix
from tests.tenancy_kit import NOW, act_as, fill, put

#: Tables of the whole instance: no row of theirs belongs to a workspace.
SHARED = {"alembic_version", "bundle", "object_trash", "scheduler"}
OWNED = sorted(name for name, access in TABLES.items() if access.web and name not in SHARED)


@pytest.fixture
def two(connection):
    """Ids of two workspaces with a row in every table."""
    ensure_partitions(connection, NOW)
    ids = [put(connection, "workspace", name=name) for name in ("ours", "theirs")]
    connection.info["filled"] = [fill(connection, one) for one in ids]
    return ids


def count(connection, table):
    columns = TABLES[table].web.partition("SELECT (")[2].partition(")")[0]
    return connection.scalar(text(f"SELECT count(*) FROM (SELECT {columns or '*'} FROM {table}) AS readable"))


def refused(connection, statement, parameters=None, reason=pg.InsufficientPrivilege):
    with pytest.raises(ProgrammingError) as caught, connection.begin_nested():
        connection.execute(text(statement), parameters or {})
    assert isinstance(caught.value.orig, reason)
    return str(caught.value.orig)


# -- nothing is left out -----------------------------------------------------------------------------------------------
def test_every_table_has_an_entry_and_every_entry_a_table(connection):
    rows = connection.scalars(
        text("SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
             " AND NOT relispartition")
    )  # fmt: skip
    assert set(rows) == TABLES.keys()
    assert TABLES.keys() - {"alembic_version"} == Model.metadata.tables.keys()


def test_every_table_is_protected_and_every_right_is_one_of_the_entry(connection):
    protected = connection.execute(
        text("""
        SELECT c.relname::text AS name, c.relrowsecurity AS on,
          ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY 1) AS policies,
          ARRAY(SELECT DISTINCT pg_get_userbyid(a.grantee)::text FROM aclexplode(c.relacl) a
                WHERE a.grantee <> c.relowner ORDER BY 1) AS grantees
        FROM pg_class c WHERE c.relname = ANY(:names) AND c.relnamespace = 'public'::regnamespace"""),
        {"names": list(TABLES)},
    ).all()
    for row in protected:
        access = TABLES[row.name]
        granted = sorted(role for role in tenancy.ROLES if access.of(role)[0])
        assert row.on, row.name
        assert row.policies == sorted({*granted, SCHEDULER}), row.name
        assert set(row.grantees) <= set(granted), row.name
    assert len(protected) == len(TABLES)


def test_a_table_without_an_entry_is_closed_to_the_roles(connection):
    connection.execute(text("CREATE TABLE newcomer (id int)"))
    for role in tenancy.ROLES:
        with connection.begin_nested() as savepoint:
            act_as(connection, role, 1)
            refused(connection, "SELECT FROM newcomer")
            savepoint.rollback()


def test_the_kit_fills_every_owned_table(connection, two):
    assert {name: count(connection, name) >= 2 for name in OWNED} == dict.fromkeys(OWNED, True)


def test_applying_again_changes_nothing(engine):
    with engine.connect() as connection:
        assert tenancy.apply(connection) == []


def test_a_changed_entry_is_applied(engine, monkeypatch):
    monkeypatch.setitem(TABLES, "variable", tenancy.Access(TABLES["variable"].rows, "SELECT"))
    with engine.connect() as connection:
        assert tenancy.apply(connection) == ["variable"]
        act_as(connection, WEB, 1)
        refused(connection, "DELETE FROM variable")


def test_every_function_with_its_owner_s_rights_has_an_entry_and_is_not_everybody_s(connection):
    rows = connection.execute(
        text("""
        SELECT oid::regprocedure::text AS name,
          ARRAY(SELECT r FROM unnest(CAST(:roles AS text[])) r WHERE has_function_privilege(r, oid, 'EXECUTE')) AS callers
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"""),
        {"roles": [*tenancy.ROLES, "public"]},
    )
    assert {row.name: tuple(row.callers) for row in rows} == tenancy.FUNCTIONS


def test_a_function_that_is_everybody_s_again_is_found_and_closed(engine):
    with engine.connect() as connection:
        connection.execute(text("GRANT EXECUTE ON FUNCTION scheduler_load(uuid) TO PUBLIC"))
        assert tenancy.outdated(connection) == ["scheduler_load(uuid)"]
        connection.commit()
        assert tenancy.apply(connection) == ["scheduler_load(uuid)"]
        assert tenancy.outdated(connection) == []


# -- reading -----------------------------------------------------------------------------------------------------------
def test_the_webserver_sees_rows_of_its_workspace_and_without_one_none(connection, two):
    for workspace, rows in ((None, 0), (two[0], 1), (two[1], 1), (2**31 - 1, 0)):
        act_as(connection, WEB, workspace)
        assert {name: count(connection, name) for name in OWNED} == dict.fromkeys(OWNED, rows)


def test_a_run_s_rows_are_seen_only_with_the_run(connection, two):
    theirs = connection.info["filled"][1]["run"]
    act_as(connection, WEB, two[0])
    for table in ("node_run", "attempt", "output", "log_chunk", "run_event"):
        assert connection.execute(text(f"SELECT FROM {table} WHERE run_id = :id"), {"id": theirs}).all() == []


# -- writing -----------------------------------------------------------------------------------------------------------
def test_deleting_and_changing_reach_own_rows_only(connection, two):
    ours, theirs = two
    connection.execute(text("SET LOCAL session_replication_role = replica"))  # this is not about foreign keys
    for table in (name for name in OWNED if "DELETE" in TABLES[name].web):
        before = count(connection, table)
        with connection.begin_nested() as savepoint:
            if "UPDATE" in TABLES[table].web:
                act_as(connection, WEB, theirs)
                assert connection.execute(text(f"UPDATE {table} SET {_harmless(table)}")).rowcount == 1, table
            act_as(connection, WEB, ours)
            assert connection.execute(text(f"DELETE FROM {table}")).rowcount == 1, table
            connection.execute(text("RESET ROLE"))
            assert count(connection, table) == before - 1, table
            savepoint.rollback()


def _harmless(table):
    column = [column for column in Model.metadata.tables[table].columns if not column.identity][-1]
    if "(" not in TABLES[table].web:
        return f"{column.name} = {column.name}"
    return f"{column.name} = NULL" if column.nullable else f"{column.name} = 'x'"


def test_a_row_for_another_workspace_is_refused(connection, two):
    ours, theirs = two
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    for table in (name for name in OWNED if "INSERT" in TABLES[name].web):
        columns = TABLES[table].web.partition("SELECT (")[2].partition(")")[0] or "*"
        act_as(connection, WEB, theirs)
        visible = connection.execute(text(f"SELECT {columns} FROM {table}")).mappings().one()
        connection.execute(text("RESET ROLE"))
        row = next(row for row in everything(connection, table) if matches(row, visible))
        act_as(connection, WEB, ours)
        said = refused(
            connection,
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(null::public.{table}, :row)",
            {"row": json.dumps(row)},
        )
        assert "row-level security" in said, table
        connection.execute(text("RESET ROLE"))


def everything(connection, table):
    return connection.scalars(text(f"SELECT to_jsonb(t) FROM {table} t")).all()


def matches(row, visible):
    return all(str(row[name]) == str(value) for name, value in visible.items() if isinstance(value, int | uuid.UUID))


def test_a_row_cannot_be_moved_to_another_workspace(connection, two):
    ours, theirs = two
    act_as(connection, WEB, ours)
    said = refused(connection, "UPDATE variable SET workspace_id = :theirs", {"theirs": theirs})
    assert "row-level security" in said


def test_the_webserver_throws_away_objects_of_its_own_runs_only(connection, two):
    mine, theirs = (one["run"] for one in connection.info["filled"])
    act_as(connection, WEB, two[0])
    statement = "INSERT INTO object_trash (prefix) VALUES (:prefix)"
    connection.execute(text(statement), {"prefix": run_prefix(mine)})
    own = run_prefix(mine)
    for prefix in (
        run_prefix(theirs), month_prefix("2026_11"), archive_prefix("2026_10"), "", "runs", own[:-1], own + "/", own + "\n",
        "../../etc/" + own, own + "/../..", run_prefix(uuid7(NOW)), own.upper(),
    ):  # fmt: skip
        assert "row-level security" in refused(connection, statement, {"prefix": prefix}), prefix


# -- what the webserver must never have --------------------------------------------------------------------------------
def test_the_webserver_may_not(connection, two):
    act_as(connection, WEB, two[0])
    for statement in (
        "SELECT ciphertext FROM secret",
        "SELECT wrapped_key FROM secret",
        "SELECT * FROM connection",
        "SELECT data FROM bundle",
        "DELETE FROM bundle",
        "UPDATE audit_event SET actor = 'nobody'",
        "DELETE FROM audit_event",
        "UPDATE workspace SET name = 'mine'",
        "INSERT INTO workspace (name) VALUES ('mine')",
        "DELETE FROM scheduler",
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE TABLE mine (id int)",
        "ALTER TABLE run DISABLE ROW LEVEL SECURITY",
        "TRUNCATE run",
    ):
        refused(connection, statement)


def test_roles_have_nothing_beyond_their_entry(connection):
    rights = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    found = connection.execute(
        text("""
        SELECT t AS name, r AS role, p AS right, has_table_privilege(r, t, p) AS has FROM unnest(CAST(:tables AS text[])) t,
          unnest(CAST(:roles AS text[])) r, unnest(CAST(:rights AS text[])) p"""),
        {"tables": list(TABLES), "roles": list(tenancy.ROLES), "rights": list(rights)},
    ).all()
    for row in found:
        grants, _rows = TABLES[row.name].of(row.role)
        assert row.has == (row.right in grants and f"{row.right} (" not in grants), row
    assert len(found) == len(TABLES) * len(tenancy.ROLES) * len(rights)


def test_who_checks_passwords_sees_nothing_of_what_workspaces_hold(connection, two):
    act_as(connection, AUTH, two[0])
    for table in ("workflow", "run", "node_run", "output", "log_chunk", "secret", "variable", "connection"):
        refused(connection, f"SELECT FROM {table}")


def test_the_scheduler_s_role_sees_all_workspaces(connection, two):
    act_as(connection, SCHEDULER)
    assert connection.scalar(text("SELECT count(DISTINCT workspace_id) FROM run")) == 2
    assert connection.scalar(text("SELECT count(*) FROM node_run")) == 2
    assert connection.scalar(text("SELECT ciphertext FROM secret LIMIT 1")) == b"x"


# -- partitions --------------------------------------------------------------------------------------------------------
def test_partitions_made_later_are_closed_but_through_their_table(connection, two):
    far = datetime.fromisoformat("2031-05-05T00:00:00+00:00")
    made = ensure_partitions(connection, far, months=0)
    assert len(made) == 6
    run = fill_month(connection, two[0], far)
    act_as(connection, WEB, two[0])
    for partition in made:
        refused(connection, f"SELECT FROM {partition}")
    assert connection.scalar(text("SELECT count(*) FROM node_run WHERE run_id = :run"), {"run": run}) == 1
    act_as(connection, WEB, two[1])
    assert connection.scalar(text("SELECT count(*) FROM node_run WHERE run_id = :run"), {"run": run}) == 0


def fill_month(connection, workspace, at):
    run = uuid7(at)
    put(connection, "run", id=run, workspace_id=workspace, state="queued", triggered_by="cli")
    put(connection, "node_run", run_id=run, node_no=0, map_index=-1, state="pending", n_up=0)
    return run


def test_no_partition_has_grants(connection):
    ensure_partitions(connection, NOW)
    granted = connection.scalars(
        text("SELECT c.relname::text FROM pg_class c, aclexplode(c.relacl) a"
             " WHERE c.relispartition AND c.relkind = 'r' AND a.grantee <> c.relowner")
    )  # fmt: skip
    assert granted.all() == []


# -- cost --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def history(shared_engine):
    """Enough history that the planner would rather use indexes, left in the module's database."""
    with shared_engine.begin() as connection:
        ensure_partitions(connection, NOW)
        workspace = put(connection, "workspace", name="busy")
        connection.execute(
            text("""
            INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor, started_at,
              finished_at)
            SELECT CAST(lpad(to_hex(1794700800000 + g), 12, '0') || '70008000' || lpad(to_hex(g), 12, '0') AS uuid),
              :workspace, 1 + g % 20, 1, 'success', 'cli', '{}', 'x', now(), now() FROM generate_series(1, 3000) g"""),
            {"workspace": workspace},
        )
        connection.execute(
            text("""
            INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up,
              finished_at)
            SELECT id, n, -1, 1, 1, 'success', 0, 1, 0, now() FROM run, generate_series(1, 20) n
            WHERE workspace_id = :workspace"""),
            {"workspace": workspace},
        )
    with shared_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE run"))
        connection.execute(text("ANALYZE node_run"))
        run = connection.scalar(text("SELECT id FROM run WHERE workspace_id = :w LIMIT 1"), {"w": workspace})
    yield workspace, run
    with shared_engine.begin() as connection:
        connection.execute(text("DELETE FROM node_run"))
        connection.execute(text("DELETE FROM run"))
        connection.execute(text("DELETE FROM workspace WHERE id = :id"), {"id": workspace})


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM node_run WHERE run_id = :run ORDER BY node_no", "node_run_2026_11_pkey"),
        ("SELECT * FROM run WHERE id = :run", "run_2026_11_pkey"),
        (
            f"SELECT id FROM run WHERE {SEARCH} @@ to_tsquery('simple', 'rare')",
            "Bitmap Index Scan on run_2026_11_expr_idx|Bitmap Index Scan on run_2026_11.*idx",
        ),
        ("SELECT id FROM run WHERE workflow_id = 7 ORDER BY id DESC LIMIT 20", "run_2026_11_workflow_id_id_idx"),
    ],
)
def test_indexes_are_used_under_the_policies(connection, history, query, index):
    workspace, run = history
    act_as(connection, WEB, workspace)
    plan = "\n".join(connection.scalars(text(f"EXPLAIN {query}"), {"run": run} if ":run" in query else {}))
    assert re.search(index, plan), plan
    assert "hashed" not in plan, "the policy looks runs up by key; a list of all runs would cost O(history)"
    assert "Seq Scan on run_2026_11" not in plan

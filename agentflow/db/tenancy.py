"""Who may touch which rows of which table: the database's own wall between workspaces (ENGINE 16).

Every use case asks for its workspace by itself; these policies are the second wall, for the day one forgets to. The
webserver takes a role of its own for each transaction and names one workspace. What it does not name it does not see:

    SELECT set_config('role', 'agentflow_web', true), set_config('app.workspace', '7', true)

- `agentflow_web` reads and writes rows of that workspace. Without `app.workspace` there are no rows. It never reads a
  stored secret, and knows nothing of users, sessions and keys.
- `agentflow_auth` checks who somebody is and keeps users, sessions and keys. It sees nothing of what workspaces hold.
- `agentflow_scheduler` sees all workspaces, and no accounts.

A row of a run's history carries no workspace: it is visible exactly if its run is, as a version is if its workflow is
(the inner table's own policy decides, so the rule is written once). That costs one look-up by key a row, some
microseconds. It is a scalar subquery because the planner would turn EXISTS into a list of all runs of the workspace.
Planning it for every partition takes far longer, so what is read by key is planned once (webserver.database.look_up).

Partitions have no grants: they are reached through the partitioned table, whose policies count, or not at all.

`apply` brings a database to what stands here, after every migration. A new table needs an entry, as does a function with
its owner's rights; a changed entry needs a migration (an empty one will do), so that `agentflow db upgrade` has something
to do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

WEB, AUTH, SCHEDULER = "agentflow_web", "agentflow_auth", "agentflow_scheduler"
ROLES = (WEB, AUTH, SCHEDULER)
ADVISORY_LOCK = 0x4146_524C  # "AFRL"; any constant that nobody else uses
LOCK_TIMEOUT = "10s"

_WORKSPACE = "nullif(current_setting('app.workspace', true), '')::int"
_READ, _ALL = "SELECT", "SELECT, INSERT, UPDATE, DELETE"


#: What runs are found by words with. Postgres uses an index under a policy only for functions that tell nothing of rows
#: which the policy hides. Their errors tell lengths at most; only a superuser may vouch for them.
_SEARCH = (
    "to_tsvector(regconfig, text)",
    "json_to_tsvector(regconfig, json, jsonb)",
    "tsvector_concat(tsvector, tsvector)",
    "ts_match_vq(tsvector, tsquery)",
)


@dataclass(frozen=True, slots=True)
class Access:
    """Rights on one table."""

    rows: str  #: Condition on the rows that the webserver may touch; `true`: they belong to no workspace.
    web: str = ""  #: What `agentflow_web` may do, as GRANT has it; empty: nothing.
    auth: str = ""
    scheduler: str = _ALL
    parents: tuple[str, ...] = field(default=())  #: Tables that `rows` looks at.

    def of(self, role: str) -> tuple[str, str]:
        """Grants and row condition of a role."""
        if role == WEB:
            return self.web, self.rows
        return (self.auth, "true") if role == AUTH else (self.scheduler, "true")


def _owned(web: str, auth: str = "") -> Access:
    return Access(f"workspace_id = {_WORKSPACE}", web, auth)


def _within(table: str, column: str, parent: str, web: str) -> Access:
    return Access(f"(SELECT true FROM {parent} WHERE {parent}.id = {table}.{column})", web, parents=(parent,))


def _of_run(table: str, web: str) -> Access:
    return _within(table, "run_id", "run", web)


_HOOK = (
    "SELECT (workspace_id, name, workflow_id, trigger_name, prefix, key_id, rotated_at, rotated_by, used_at),"
    " INSERT, UPDATE, DELETE"
)
#: A scheduler deletes everything below what stands here, so it must be the place of a run of the workspace, and in the
#: form that `agentflow.objects.names.run_prefix` has: no beginning of others' names, no way out of the store.
_TRASH = r"""CASE WHEN object_trash.prefix ~ '^runs/\d{4}_\d{2}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
  THEN (SELECT true FROM run WHERE run.id = CAST(right(object_trash.prefix, 36) AS uuid)) ELSE false END"""
#: Not for those who serve requests, and not for those who run what users have written.
_ACCOUNTS = Access("false", auth=_ALL, scheduler="")
_SEALED = "SELECT (workspace_id, name, key_id, updated_at, updated_by), INSERT, UPDATE, DELETE"
_SEALED_FIELDS = (
    "SELECT (workspace_id, name, type, config, secret_fields, updated_at, updated_by), INSERT, UPDATE, DELETE"
)

TABLES: dict[str, Access] = {
    "alembic_version": Access("true", _READ, scheduler=_READ),
    "workspace": Access(f"id = {_WORKSPACE}", _READ, _ALL),
    "workflow": _owned(_ALL),
    "workflow_version": _within("workflow_version", "workflow_id", "workflow", _ALL),
    "dispatch_group": _within("dispatch_group", "workflow_id", "workflow", _ALL),
    "workflow_draft": _owned(_ALL),
    "version_node": _within("version_node", "version_id", "workflow_version", _ALL),
    "version_edge": _within("version_edge", "version_id", "workflow_version", _ALL),
    # Code is stored by its hash, once for all workspaces: the webserver may add some, never read, change or drop any. What
    # it adds harms nobody: a runner takes only code that has the hash which the version asks for.
    "bundle": Access("true", "SELECT (hash), INSERT"),
    "pool": _owned(_ALL, auth="INSERT"),  # a new workspace begins with one
    "variable": _owned(_ALL),
    "secret": _owned(_SEALED),
    "connection": _owned(_SEALED_FIELDS),
    "source_file": _owned(_READ),
    "dag_folder": _owned(_READ),
    "trigger": _within("trigger", "workflow_id", "workflow", _ALL),
    "fire": _within("fire", "trigger_id", "trigger", _READ),
    "event_source": _owned(_ALL),
    "event_arrival": _within("event_arrival", "trigger_id", "trigger", _READ),
    "manual_date": _within("manual_date", "workflow_id", "workflow", _ALL),
    "backfill": _owned(_ALL),
    "run": _owned(_ALL),
    "node_run": _of_run("node_run", _ALL),
    "attempt": _of_run("attempt", _ALL),
    "output": _of_run("output", _ALL),
    "log_chunk": _of_run("log_chunk", "SELECT, DELETE"),
    "run_event": _of_run("run_event", _ALL),
    "run_end": _of_run("run_end", _ALL),
    "run_waiter": _of_run("run_waiter", _ALL),
    "webhook": _owned(_HOOK, auth=_READ),  # whoever delivers has a token and no workspace yet
    "webhook_delivery": _owned(_ALL),
    # Schedulers serve all workspaces: everybody may see that one is alive, and what it can run.
    "scheduler": Access("true", _READ),
    "object_trash": Access(_TRASH, "INSERT", parents=("run",)),
    "idempotency_key": _owned(_ALL),
    "audit_event": _owned("SELECT, INSERT", auth="INSERT"),
    "app_user": _ACCOUNTS,
    "membership": _ACCOUNTS,
    "session": _ACCOUNTS,
    "api_key": _ACCOUNTS,
    "login_link": _ACCOUNTS,
    "login_throttle": _ACCOUNTS,
}


#: Functions that see more than their caller does, and who may call them besides their owner.
FUNCTIONS: dict[str, tuple[str, ...]] = {"scheduler_load(uuid)": (WEB, SCHEDULER)}


def apply(connection: Connection) -> list[str]:
    """Bring grants and policies of what exists to what stands here; returns the tables and functions that were changed.

    Each table is a transaction of its own, which is committed here: its lock keeps everybody out of the table, and is
    held for one table at a time only.
    """
    changed = []
    for name, access in TABLES.items():
        _take_turns(connection)
        if name in outdated(connection):
            _protect(connection, name, access)
            changed.append(name)
        connection.commit()
    _take_turns(connection)
    for function in _outdated_functions(connection):
        connection.execute(text(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC, {', '.join(ROLES)}"))
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION {function} TO {', '.join(FUNCTIONS[function])}"))
        changed.append(function)
    connection.commit()
    _vouch(connection)
    connection.commit()
    return changed


def remove(connection: Connection) -> None:
    """Drop all policies and grants, so that migrations may drop the tables they mention."""
    _take_turns(connection)
    for table in sorted(_tables(connection).keys() & TABLES.keys()):
        for role in ROLES:
            connection.execute(text(f"DROP POLICY IF EXISTS {role} ON {table}"))
        connection.execute(text(f"REVOKE ALL ON {table} FROM {', '.join(ROLES)}"))
        connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
    for function in _callers(connection):
        connection.execute(text(f"REVOKE ALL ON FUNCTION {function} FROM {', '.join(ROLES)}"))
    connection.execute(text(f"REVOKE USAGE ON SCHEMA public FROM {', '.join(ROLES)}"))
    connection.commit()


def _vouch(connection: Connection) -> None:
    """Let searches use their index in the webserver's role; without a superuser they read all runs of a workspace."""
    _take_turns(connection)
    missing = connection.scalars(
        text("""
        SELECT f FROM unnest(CAST(:functions AS text[])) f JOIN pg_proc p ON p.oid = CAST('pg_catalog.' || f AS regprocedure)
        WHERE NOT p.proleakproof AND current_setting('is_superuser') = 'on'"""),
        {"functions": list(_SEARCH)},
    )
    for function in missing.all():
        connection.execute(text(f"ALTER FUNCTION pg_catalog.{function} LEAKPROOF"))


def _take_turns(connection: Connection) -> None:
    """One process at a time, until the transaction ends; and rather fail than let a table's readers queue behind us."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))


def outdated(connection: Connection) -> list[str]:
    """Tables, there with all that their rows are judged by, and functions whose rights are not what stands here.

    `apply` sets them.
    """
    present = _tables(connection)
    tables = [
        name
        for name, access in TABLES.items()
        if {name, *access.parents} <= present.keys() and present[name] != _fingerprint(name, access)
    ]
    return tables + _outdated_functions(connection)


def _outdated_functions(connection: Connection) -> list[str]:
    return [name for name, callers in _callers(connection).items() if callers != set(FUNCTIONS[name])]


def _callers(connection: Connection) -> dict[str, set[str]]:
    """Functions that exist, each with who may call it besides its owner; `-` is everybody."""
    rows = connection.execute(
        text("""
        SELECT f AS name, ARRAY(
          SELECT a.grantee::regrole::text FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
          WHERE a.grantee <> p.proowner) AS callers
        FROM unnest(CAST(:functions AS text[])) f JOIN pg_proc p ON p.oid = to_regprocedure('public.' || f)"""),
        {"functions": list(FUNCTIONS)},
    )
    return {row.name: set(row.callers) for row in rows}


def _tables(connection: Connection) -> dict[str, str | None]:
    """Tables of the schema, each with the fingerprint that was left when it was protected."""
    rows = connection.execute(
        text("""
        SELECT c.relname::text AS name, obj_description(p.oid, 'pg_policy') AS mark FROM pg_class c
        LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = :marked
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"""),
        {"marked": SCHEDULER},
    )
    return {row.name: row.mark for row in rows}


def _fingerprint(name: str, access: Access) -> str:
    return hashlib.sha256(repr((name, [access.of(role) for role in ROLES])).encode()).hexdigest()[:16]


def _protect(connection: Connection, name: str, access: Access) -> None:
    connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {', '.join(ROLES)}"))
    connection.execute(text(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"))
    connection.execute(text(f"REVOKE ALL ON {name} FROM PUBLIC, {', '.join(ROLES)}"))
    for role in ROLES:
        grants, rows = access.of(role)
        connection.execute(text(f"DROP POLICY IF EXISTS {role} ON {name}"))
        if grants:
            connection.execute(text(f"GRANT {grants} ON {name} TO {role}"))
        if grants or role == SCHEDULER:  # a policy of this role carries the fingerprint, also where it has no grants
            connection.execute(text(f"CREATE POLICY {role} ON {name} TO {role} USING ({rows})"))
    connection.execute(text(f"COMMENT ON POLICY {SCHEDULER} ON {name} IS '{_fingerprint(name, access)}'"))

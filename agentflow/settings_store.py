"""Pools and variables: small named settings that workflows refer to. Each function runs in the caller's transaction."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import BY_NAME, audit, check_name, delete_named, list_named, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.db.notify import notify_ready
from agentflow.errors import Conflict, UsageError

MAX_SLOTS = 1_000_000
DEFAULT_POOL = "default"

_LIST_POOLS = text(f"""
SELECT * FROM (
SELECT p.name, p.slots, p.description, coalesce(used.slots, 0) AS used
FROM pool p LEFT JOIN LATERAL (
  SELECT sum(nr.pool_slots)::int AS slots FROM node_run nr JOIN dispatch_group g ON g.id = nr.group_id
  WHERE g.pool_id = p.id AND nr.state IN ('queued', 'running')) AS used ON true
WHERE p.workspace_id = :workspace) AS pools WHERE true {BY_NAME}
""")  # noqa: S608 - text of ours
_LIST_VARIABLES = text(f"SELECT name, value, updated_at FROM variable WHERE workspace_id = :workspace {BY_NAME}")  # noqa: S608 - text of ours
_SET_POOL = text("""
INSERT INTO pool (workspace_id, name, slots, description) VALUES (:workspace, :name, :slots, coalesce(:description, ''))
ON CONFLICT (workspace_id, name)
DO UPDATE SET slots = excluded.slots, description = coalesce(:description, pool.description)
""")

_DELETE_POOL = text("DELETE FROM pool WHERE workspace_id = :workspace AND name = :name")
_DELETE_VARIABLE = text("DELETE FROM variable WHERE workspace_id = :workspace AND name = :name")


def list_pools(
    connection: Connection,
    *,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of pools with their slots and how many are taken; see `list_named`."""
    rows, following = list_named(
        connection, _LIST_POOLS, "pools", name=name, limit=limit, cursor=cursor, workspace=workspace
    )
    return [dict(row._mapping) for row in rows], following  # noqa: SLF001 - SQLAlchemy's public name for it


def set_pool(
    connection: Connection,
    name: str,
    slots: int,
    *,
    description: str | None = None,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Create or resize a pool; 0 slots let nothing start.

    Raises:
        UsageError: The name or the number of slots is wrong.
    """
    check_name(name, "pool")
    if not 0 <= slots <= MAX_SLOTS:
        raise UsageError(f"A pool cannot have {slots} slots.", hint=f"0 to {MAX_SLOTS}")
    owner = workspace_id(connection, workspace)
    connection.execute(_SET_POOL, {"workspace": owner, "name": name, "slots": slots, "description": description})
    audit(connection, owner, actor, "pool.set", name, slots=slots)
    notify_ready(connection)
    return {"name": name, "changed": True}


def delete_pool(connection: Connection, name: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE) -> dict[str, Any]:
    """Delete a pool that no workflow names.

    Raises:
        NotFound: No such pool.
        Conflict: It is the default pool, or a stored version names it.
    """
    owner = workspace_id(connection, workspace)
    if name == DEFAULT_POOL:
        raise Conflict("The default pool cannot be deleted.", hint="resize it with `agentflow pools set`")
    used = connection.scalars(
        text("""
        SELECT DISTINCT w.name FROM pool p JOIN dispatch_group g ON g.pool_id = p.id JOIN workflow w ON w.id = g.workflow_id
        WHERE p.workspace_id = :workspace AND p.name = :name ORDER BY w.name LIMIT 5"""),
        {"workspace": owner, "name": name},
    ).all()
    if used:
        raise Conflict(f"Workflows use the pool {name!r}: {', '.join(used)}.", hint="set its slots to 0 instead")
    return delete_named(connection, _DELETE_POOL, "pool", name, actor=actor, workspace=workspace)


def list_variables(
    connection: Connection,
    *,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of variables with their values; see `list_named`."""
    rows, following = list_named(
        connection, _LIST_VARIABLES, "variables", name=name, limit=limit, cursor=cursor, workspace=workspace
    )
    return [{"name": r.name, "value": r.value, "updated_at": iso(r.updated_at)} for r in rows], following


def set_variable(
    connection: Connection, name: str, value: Any, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Create or replace a variable with a JSON value.

    Raises:
        UsageError: The name is not an identifier.
    """
    check_name(name, "variable")
    owner = workspace_id(connection, workspace)
    connection.execute(
        text("""
        INSERT INTO variable (workspace_id, name, value) VALUES (:workspace, :name, CAST(:value AS json))
        ON CONFLICT (workspace_id, name) DO UPDATE SET value = excluded.value, updated_at = clock_timestamp()"""),
        {"workspace": owner, "name": name, "value": json.dumps(value)},
    )
    audit(connection, owner, actor, "variable.set", name)
    return {"name": name, "changed": True}


def delete_variable(
    connection: Connection, name: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Delete a variable.

    Raises:
        NotFound: No such variable.
    """
    return delete_named(connection, _DELETE_VARIABLE, "variable", name, actor=actor, workspace=workspace)

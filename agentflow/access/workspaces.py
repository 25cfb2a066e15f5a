"""Workspaces and who is in them. Each function runs in the caller's transaction."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, text

from agentflow.access.accounts import document, require_user
from agentflow.access.roles import Role
from agentflow.catalog import audit, workspace_id
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.notify import notify_rights
from agentflow.errors import Conflict, NotFound, UsageError

CURSOR = "workspaces"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

_LIST = text("""
SELECT w.name, w.created_at, m.role, (SELECT count(*) FROM membership x WHERE x.workspace_id = w.id) AS members
FROM workspace w LEFT JOIN membership m ON m.workspace_id = w.id AND m.user_id = :user
WHERE (:all OR m.role IS NOT NULL) AND (CAST(:name AS text) IS NULL OR w.name = :name)
  AND (CAST(:after AS text) IS NULL OR w.name > :after)
ORDER BY w.name LIMIT :limit
""")
_INSERT = text("INSERT INTO workspace (name) VALUES (:name) ON CONFLICT DO NOTHING RETURNING id")
_POOL = text("""
INSERT INTO pool (workspace_id, name, slots, description)
VALUES (:workspace, 'default', 128, 'Every node that names no pool')
""")
_MEMBERS = text("""
SELECT u.id, u.email, u.name, u.disabled, m.role, m.created_at, m.created_by FROM membership m
JOIN app_user u ON u.id = m.user_id WHERE m.workspace_id = :workspace ORDER BY u.email
""")
_GRANT = text("""
INSERT INTO membership (user_id, workspace_id, role, created_by) VALUES (:user, :workspace, :role, :actor)
ON CONFLICT (user_id, workspace_id) DO UPDATE SET role = excluded.role WHERE membership.role <> excluded.role
""")
_REVOKE = text("DELETE FROM membership WHERE user_id = :user AND workspace_id = :workspace")


def list_workspaces(
    connection: Connection,
    *,
    user: int | None = None,
    everything: bool = False,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of workspaces by name, and the cursor of the next page (None at the end).

    Args:
        connection: In a transaction.
        user: With their role: those where they have one,
        everything: or all.
        name: Only the one of this name.
        limit: At most so many; None: all.
        cursor: `next_cursor` of the page before.

    Raises:
        UsageError: The cursor is not one of this list.
    """
    after = None if cursor is None else read_cursor(CURSOR, cursor, str)
    parameters = {"user": user, "all": everything, "name": name, "after": after}
    rows = connection.execute(_LIST, parameters | {"limit": None if limit is None else limit + 1}).all()
    if limit is None or len(rows) <= limit:
        return [document(row) for row in rows], None
    return [document(row) for row in rows[:limit]], write_cursor(CURSOR, rows[limit - 1].name)


def create_workspace(connection: Connection, name: str, *, actor: str) -> dict[str, Any]:
    """Make a workspace, empty but for the pool `default`.

    Raises:
        UsageError: The name is not one.
        Conflict: There is one of this name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a workspace.", hint="small letters, digits, _ and -, at most 100")
    made = connection.scalar(_INSERT, {"name": name})
    if made is None:
        raise Conflict(f"There is a workspace {name!r} already.", hint="`agentflow workspaces list` shows all")
    connection.execute(_POOL, {"workspace": made})
    audit(connection, made, actor, "workspace.created", name)
    return {"name": name, "changed": True}


def list_members(connection: Connection, workspace: str) -> list[dict[str, Any]]:
    """Who has a role in a workspace, by address.

    Raises:
        NotFound: There is no such workspace.
    """
    rows = connection.execute(_MEMBERS, {"workspace": workspace_id(connection, workspace)})
    return [document(row) for row in rows]


def grant_role(connection: Connection, user: int, workspace: str, role: Role, *, actor: str) -> dict[str, Any]:
    """Give a user this role in a workspace, in place of the one they had.

    Raises:
        NotFound: There is no such user or workspace.
    """
    email, owner = require_user(connection, user), workspace_id(connection, workspace)
    made = connection.execute(_GRANT, {"user": user, "workspace": owner, "role": role.value, "actor": actor})
    if made.rowcount:
        audit(connection, owner, actor, "member.granted", email, role=role.value)
        notify_rights(connection)
    return {"email": email, "workspace": workspace, "role": role.value, "changed": made.rowcount == 1}


def revoke_role(connection: Connection, user: int, workspace: str, *, actor: str) -> dict[str, Any]:
    """Take a user's role in a workspace; their keys there stop.

    Raises:
        NotFound: There is no such user or workspace, or they have no role there.
    """
    email, owner = require_user(connection, user), workspace_id(connection, workspace)
    if connection.execute(_REVOKE, {"user": user, "workspace": owner}).rowcount == 0:
        raise NotFound(f"{email} has no role in the workspace {workspace!r}.")
    audit(connection, owner, actor, "member.removed", email)
    notify_rights(connection)
    return {"email": email, "workspace": workspace, "role": None, "changed": True}

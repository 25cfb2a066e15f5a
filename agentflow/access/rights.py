"""From whoever has shown who they are to what they may do: the one place where roles, scopes and switches meet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.access import api_keys
from agentflow.access.roles import Principal, Role
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.errors import NotFound

_RIGHTS = text("""
SELECT u.id, u.email, u.disabled, u.instance_admin, w.id AS workspace_id, m.role
FROM app_user u JOIN workspace w ON w.name = :workspace
LEFT JOIN membership m ON m.user_id = u.id AND m.workspace_id = w.id WHERE u.id = :user
""")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database says of somebody in a workspace."""

    role: Role | None
    instance_admin: bool


def role_of(standing: Standing, scopes: Collection[str] | None = None) -> Role | None:
    """The role in force: an instance admin has every one; a key's scopes lower it and never raise it."""
    role = Role.ADMIN if standing.instance_admin else standing.role
    if role is None or scopes is None:
        return role
    allowed = [api_keys.SCOPES[scope] for scope in scopes if scope in api_keys.SCOPES]
    return min(role, max(allowed)) if allowed else None


def user_principal(connection: Connection, user: int, workspace: str | None) -> Principal | None:
    """A user in a workspace (None: `default`); None when they may not come in at all.

    Raises:
        NotFound: There is no such workspace, or they are not in the one they asked for: which of the two is not told.
    """
    name = workspace or DEFAULT_WORKSPACE
    row = connection.execute(_RIGHTS, {"user": user, "workspace": name}).one_or_none()
    if row is None:
        raise _no_workspace(name)
    if row.disabled:
        return None
    role = role_of(Standing(None if row.role is None else Role(row.role), row.instance_admin))
    if role is None and workspace is not None:
        raise _no_workspace(name)
    return Principal(
        kind="user",
        id=str(row.id),
        name=f"user:{row.email}",
        workspace_id=row.workspace_id,
        workspace=name,
        role=role,
        instance_admin=row.instance_admin,
    )


def key_principal(row: Row[Any], workspace: str | None, now: datetime) -> Principal | None:
    """Who a key acts as; None when it is not in force.

    Raises:
        NotFound: It is for another workspace than the one that was asked for.
    """
    if not api_keys.is_in_force(row, now):
        return None
    if workspace is not None and workspace != row.workspace:
        raise _no_workspace(workspace)
    if row.user_id is None:
        standing = Standing(Role.ADMIN, instance_admin=False)
    else:
        standing = Standing(None if row.role is None else Role(row.role), row.instance_admin)
    return Principal(
        kind="key",
        id=str(row.id),
        name=f"key:{row.prefix}",
        workspace_id=row.workspace_id,
        workspace=row.workspace,
        role=role_of(standing, row.scopes),
        instance_admin=False,  # a key is for one workspace
        scopes=frozenset(row.scopes),
    )


def _no_workspace(name: str) -> NotFound:
    return NotFound(f"There is no workspace {name[:100]!r}.", hint="X-Workspace names one that you are a member of")

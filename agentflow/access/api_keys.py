"""API keys: made, listed, revoked. A key is for one workspace, and never does more than the user it belongs to may."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.access.accounts import document, read_name
from agentflow.access.roles import Role
from agentflow.access.tokens import random_token, token_hash
from agentflow.catalog import audit, workspace_id
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.db.notify import notify_rights
from agentflow.errors import Conflict, NotFound, UsageError

CURSOR = "api-keys"
PREFIX = "af"
PREFIX_LENGTH = len(PREFIX) + 1 + 8
_LONGEST = 100  # characters of a key
_NOTE_USE = timedelta(minutes=1)  # `used_at` is written at most so often

#: What a key may do at most. Several scopes allow what the highest of them does.
SCOPES: dict[str, Role] = {"read": Role.VIEWER, "run": Role.OPERATOR, "edit": Role.EDITOR, "admin": Role.ADMIN}

_COLUMNS = """
  k.id, k.name, k.prefix, k.scopes, u.email AS user, k.created_at, k.created_by, k.expires_at, k.used_at, k.revoked_at
FROM api_key k LEFT JOIN app_user u ON u.id = k.user_id
"""
_INSERT = text("""
INSERT INTO api_key (workspace_id, user_id, name, prefix, key_hash, scopes, created_by, expires_at)
VALUES (:workspace, :user, :name, :prefix, :hash, :scopes, :actor, :expires) ON CONFLICT DO NOTHING RETURNING id
""")
_LIST = text(f"""
SELECT {_COLUMNS} WHERE k.workspace_id = :workspace AND k.id < :before AND (:revoked OR k.revoked_at IS NULL)
ORDER BY k.id DESC LIMIT :limit
""")
_SHOW = text(f"SELECT {_COLUMNS} WHERE k.id = :id")
_REVOKE = text("""
UPDATE api_key SET revoked_at = clock_timestamp() WHERE id = :id AND workspace_id = :workspace AND revoked_at IS NULL
RETURNING name
""")
_BY_NAME = text("SELECT id FROM api_key WHERE workspace_id = :workspace AND name = :name AND revoked_at IS NULL")
_FIND = text("""
SELECT k.id, k.prefix, k.workspace_id, w.name AS workspace, k.user_id, k.scopes, k.expires_at, k.used_at, k.revoked_at,
  u.email, u.disabled, u.instance_admin, m.role
FROM api_key k JOIN workspace w ON w.id = k.workspace_id LEFT JOIN app_user u ON u.id = k.user_id
LEFT JOIN membership m ON m.user_id = k.user_id AND m.workspace_id = k.workspace_id
WHERE k.key_hash = :hash
""")
_OWNER = text("SELECT user_id FROM api_key WHERE id = :id")
_USED = text("UPDATE api_key SET used_at = :now WHERE id = :id")
_AFTER_ALL = 2**63 - 1


def create_api_key(
    connection: Connection,
    name: str,
    *,
    scopes: Collection[str],
    user: int | None,
    expires_at: datetime | None = None,
    now: datetime,
    actor: str,
    workspace: str,
) -> dict[str, Any]:
    """Make a key; the answer is the only place where it stands whole.

    Args:
        connection: The caller's transaction.
        name: What it is for.
        scopes: Of SCOPES.
        user: Whose key it is; None: nobody's, it may do what its scopes say until it is revoked.
        expires_at: When it stops by itself.
        now: The time.
        actor: Who makes it.
        workspace: The only workspace it is for.

    Raises:
        UsageError: The name, the scopes or the time is not one.
        Conflict: There is a key of this name.
    """
    title = read_name(name)
    if not title:
        raise UsageError("A key needs a name.", hint="say what it is for")
    if not scopes or set(scopes) - SCOPES.keys():
        raise UsageError(f"A key needs scopes of: {', '.join(SCOPES)}.")
    if expires_at is not None and expires_at <= now:
        raise UsageError("The key would have expired already.", hint="give a time to come")
    key = random_token(PREFIX)
    owner = workspace_id(connection, workspace)
    made = connection.scalar(
        _INSERT,
        {
            "workspace": owner,
            "user": user,
            "name": title,
            "prefix": key[:PREFIX_LENGTH],
            "hash": token_hash(key),
            "scopes": [scope for scope in SCOPES if scope in scopes],
            "actor": actor,
            "expires": expires_at,
        },
    )
    if made is None:
        raise Conflict(f"There is a key {title!r} already.", hint="revoke it first, or choose another name")
    audit(connection, owner, actor, "api-key.created", title, prefix=key[:PREFIX_LENGTH], scopes=sorted(scopes))
    return document(connection.execute(_SHOW, {"id": made}).one()) | {"key": key}


def list_api_keys(
    connection: Connection, *, workspace: str, revoked: bool = False, limit: int = 100, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of a workspace's keys, the newest first; never whole."""
    rows = connection.execute(
        _LIST,
        {
            "workspace": workspace_id(connection, workspace),
            "before": read_cursor(CURSOR, cursor, big_int) if cursor else _AFTER_ALL,
            "revoked": revoked,
            "limit": limit + 1,
        },
    ).all()
    more = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [document(row) for row in rows[:limit]], more


def revoke_api_key(connection: Connection, key: int, *, actor: str, workspace: str) -> dict[str, Any]:
    """Stop a key for good.

    Raises:
        NotFound: The workspace has no such key in force.
    """
    owner = workspace_id(connection, workspace)
    name = connection.scalar(_REVOKE, {"id": key, "workspace": owner})
    if name is None:
        raise NotFound(f"There is no key {key} in force.", hint="`agentflow api-keys list` shows those that are")
    audit(connection, owner, actor, "api-key.revoked", name)
    notify_rights(connection)
    return {"id": key, "changed": True}


def api_key_id(connection: Connection, name: str, *, workspace: str) -> int:
    """Id of the key of this name that is in force.

    Raises:
        NotFound: There is none.
    """
    found: int | None = connection.scalar(
        _BY_NAME, {"workspace": workspace_id(connection, workspace), "name": name.strip()}
    )
    if found is None:
        raise NotFound(f"There is no key {name!r} in force.", hint="`agentflow api-keys list` shows those that are")
    return found


def owner_of(connection: Connection, key: int) -> int | None:
    """Whose key this is; None: nobody's."""
    found: int | None = connection.scalar(_OWNER, {"id": key})
    return found


def find_api_key(connection: Connection, key: str) -> Row[Any] | None:
    """The row of a key with its user's rights, in force or not."""
    if len(key) > _LONGEST or not key.startswith(f"{PREFIX}_"):
        return None
    return connection.execute(_FIND, {"hash": token_hash(key)}).one_or_none()


def is_in_force(row: Row[Any], now: datetime) -> bool:
    """Whether a key lets anybody in."""
    return row.revoked_at is None and not row.disabled and (row.expires_at is None or row.expires_at > now)


def note_use(connection: Connection, row: Row[Any], now: datetime) -> None:
    """Remember when a key was used; written once a minute at most."""
    if row.used_at is None or now - row.used_at > _NOTE_USE:
        connection.execute(_USED, {"id": row.id, "now": now})

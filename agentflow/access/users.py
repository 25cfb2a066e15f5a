"""Users: made, listed, changed, shut out. Each function runs in the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.access.accounts import document, read_email, read_name, record, require_user
from agentflow.access.passwords import check_password, hash_password
from agentflow.access.sessions import revoke_sessions
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.db.notify import notify_rights
from agentflow.errors import Conflict, NotFound, UsageError

CURSOR = "users"

_COLUMNS = """
  u.id, u.email, u.name, u.disabled, u.instance_admin, u.password_hash IS NOT NULL AS has_password,
  u.oidc_subject IS NOT NULL AS has_oidc, u.created_at, u.created_by,
  (SELECT coalesce(json_agg(json_build_object('workspace', w.name, 'role', m.role) ORDER BY w.name), '[]')
   FROM membership m JOIN workspace w ON w.id = m.workspace_id
   WHERE m.user_id = u.id AND (CAST(:workspace AS text) IS NULL OR w.name = :workspace)) AS memberships
"""
_LIST = text(f"""
SELECT {_COLUMNS} FROM app_user u WHERE u.id > :after
  AND (CAST(:search AS text) IS NULL OR strpos(lower(u.email || ' ' || u.name), lower(:search)) > 0)
  AND (CAST(:workspace AS text) IS NULL OR EXISTS (
    SELECT FROM membership m JOIN workspace w ON w.id = m.workspace_id WHERE m.user_id = u.id AND w.name = :workspace))
ORDER BY u.id LIMIT :limit
""")
_SHOW = text(f"SELECT {_COLUMNS} FROM app_user u WHERE u.id = :id")
_INSERT = text("""
INSERT INTO app_user (email, name, password_hash, instance_admin, created_by, oidc_issuer, oidc_subject)
VALUES (:email, :name, :password_hash, :instance_admin, :actor, :issuer, :subject)
ON CONFLICT DO NOTHING RETURNING id
""")
_UPDATE = text("""
UPDATE app_user SET name = coalesce(:name, name), disabled = coalesce(:disabled, disabled),
  instance_admin = coalesce(:instance_admin, instance_admin), updated_at = clock_timestamp() WHERE id = :id
""")
_PASSWORD = text("UPDATE app_user SET password_hash = :hash, updated_at = clock_timestamp() WHERE id = :id")
_CREDENTIALS = text("SELECT id, email, password_hash, disabled FROM app_user WHERE email = :email")
_LOCKED_HASH = text("SELECT password_hash FROM app_user WHERE id = :id AND NOT disabled FOR UPDATE")
_ADMINS = text("SELECT id FROM app_user WHERE instance_admin AND NOT disabled ORDER BY id FOR UPDATE")
_DELETE = text("DELETE FROM app_user WHERE id = :id")


def create_user(
    connection: Connection,
    email: str,
    *,
    name: str = "",
    password: str | None = None,
    instance_admin: bool = False,
    oidc: tuple[str, str] | None = None,
    actor: str,
) -> dict[str, Any]:
    """Make a user, without a role anywhere yet.

    Args:
        connection: The caller's transaction.
        email: What they log in with.
        name: Shown to others.
        password: None: they come in by a link or an identity provider.
        instance_admin: Whether they may do everything in every workspace.
        oidc: Issuer and subject at an identity provider.
        actor: Who makes them.

    Raises:
        UsageError: The address, the name or the password is not one.
        Conflict: There is a user with this address.
    """
    address = read_email(email)
    if password is not None:
        check_password(password, email=address)
    issuer, subject = oidc or (None, None)
    made = connection.scalar(
        _INSERT,
        {
            "email": address,
            "name": read_name(name),
            "password_hash": None if password is None else hash_password(password),
            "instance_admin": instance_admin,
            "actor": actor,
            "issuer": issuer,
            "subject": subject,
        },
    )
    if made is None:
        raise Conflict(f"There is a user {address!r} already.", hint="`agentflow users list` shows who there is")
    record(connection, actor, "user.created", address, instance_admin=instance_admin)
    return show_user(connection, made)


def show_user(connection: Connection, user: int, *, workspace: str | None = None) -> dict[str, Any]:
    """A user with the roles they have; with `workspace`, only the one there.

    Raises:
        NotFound: There is none with this id.
    """
    row = connection.execute(_SHOW, {"id": user, "workspace": workspace}).one_or_none()
    if row is None or (workspace is not None and not row.memberships):
        raise NotFound(f"There is no user {user}.")
    return document(row)


def find_credentials(connection: Connection, email: str) -> Row[Any] | None:
    """`id, email, password_hash, disabled` of a user; None when there is none, or the text is no address."""
    try:
        address = read_email(email)
    except UsageError:
        return None
    return connection.execute(_CREDENTIALS, {"email": address}).one_or_none()


def list_users(
    connection: Connection,
    *,
    workspace: str | None = None,
    search: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of users, the oldest first; with `workspace` its members and their role there only."""
    after = read_cursor(CURSOR, cursor, big_int) if cursor else 0
    rows = connection.execute(
        _LIST, {"after": after, "workspace": workspace, "search": search, "limit": limit + 1}
    ).all()
    more = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [document(row) for row in rows[:limit]], more


def update_user(
    connection: Connection,
    user: int,
    *,
    name: str | None = None,
    disabled: bool | None = None,
    instance_admin: bool | None = None,
    actor: str,
) -> dict[str, Any]:
    """Change what is given. A user who is disabled is logged out, and their keys stop.

    Raises:
        NotFound: There is none with this id.
        UsageError: The name is not one.
        Conflict: Nobody would be left to administer the instance.
    """
    email = require_user(connection, user)
    if disabled or instance_admin is False:
        _keep_an_admin(connection, user)
    changes = {
        "name": None if name is None else read_name(name),
        "disabled": disabled,
        "instance_admin": instance_admin,
    }
    connection.execute(_UPDATE, {"id": user, **changes})
    if disabled is not None or instance_admin is not None:
        notify_rights(connection)
    if disabled:
        revoke_sessions(connection, user, because="disabled")
    record(
        connection, actor, "user.changed", email, **{key: value for key, value in changes.items() if value is not None}
    )
    return show_user(connection, user)


def delete_user(connection: Connection, user: int, *, actor: str) -> dict[str, Any]:
    """Delete a user with their sessions and keys; what they did stays in the audit log.

    Raises:
        NotFound: There is none with this id.
        Conflict: Nobody would be left to administer the instance.
    """
    email = require_user(connection, user)
    _keep_an_admin(connection, user)
    connection.execute(_DELETE, {"id": user})
    record(connection, actor, "user.deleted", email)
    notify_rights(connection)
    return {"id": user, "changed": True}


def set_password(connection: Connection, user: int, password: str, *, actor: str) -> dict[str, Any]:
    """Give a user a password and log them out everywhere.

    Raises:
        NotFound: There is none with this id.
        UsageError: The password is easily guessed.
    """
    email = require_user(connection, user)
    check_password(password, email=email)
    store_password(connection, user, hash_password(password))
    revoke_sessions(connection, user, because="password changed")
    record(connection, actor, "user.password_set", email)
    return {"id": user, "changed": True}


def store_password(connection: Connection, user: int, hashed: str | None) -> None:
    """Keep a password that was hashed elsewhere; None: no login by password."""
    connection.execute(_PASSWORD, {"id": user, "hash": hashed})


def still_has_password(connection: Connection, user: int, hashed: str) -> bool:
    """Whether this hash, which was read and checked before, still counts; until the transaction ends it stays so."""
    return bool(connection.scalar(_LOCKED_HASH, {"id": user}) == hashed)


def _keep_an_admin(connection: Connection, without: int) -> None:
    admins = connection.scalars(_ADMINS).all()  # locked: two admins must not shut out each other at once
    if list(admins) == [without]:
        raise Conflict("This is the only administrator of the instance.", hint="make another one first")

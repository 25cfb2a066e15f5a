"""One-time links: how the first administrator comes in, and how people get a new password without anybody knowing it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, text

from agentflow.access.accounts import record, require_user
from agentflow.access.sessions import revoke_sessions
from agentflow.access.tokens import random_token, token_hash
from agentflow.access.users import create_user, store_password

Purpose = Literal["login", "reset"]

LIFETIME: dict[Purpose, timedelta] = {"login": timedelta(hours=1), "reset": timedelta(hours=24)}
FIRST_ADMIN = "admin@localhost"

_INSERT = text("""
INSERT INTO login_link (token_hash, user_id, purpose, created_at, expires_at)
VALUES (:hash, :user, :purpose, :now, :expires)
""")
_CLEAR = text("DELETE FROM login_link WHERE user_id = :user AND (purpose = :purpose OR expires_at < :now)")
_VOID = text("DELETE FROM login_link WHERE user_id = :user")
_LOOK = text("""
SELECT l.user_id, l.purpose, u.email, u.password_hash IS NOT NULL AS has_password FROM login_link l
JOIN app_user u ON u.id = l.user_id
WHERE l.token_hash = :hash AND l.used_at IS NULL AND l.expires_at > :now AND NOT u.disabled
""")
_USE = text("UPDATE login_link SET used_at = :now WHERE token_hash = :hash AND used_at IS NULL AND expires_at > :now")
#: Nobody has ever come in: the only user, if any, is the one that an earlier start made.
_NOBODY_YET = text("""
SELECT NOT EXISTS (SELECT FROM app_user WHERE email <> :email OR password_hash IS NOT NULL OR oidc_subject IS NOT NULL),
  (SELECT id FROM app_user WHERE email = :email)
""")


@dataclass(frozen=True, slots=True)
class Link:
    """Whom a link lets in."""

    user: int
    purpose: Purpose
    email: str
    has_password: bool


def make_link(connection: Connection, user: int, purpose: Purpose, *, now: datetime, actor: str) -> dict[str, Any]:
    """A link for a user; earlier ones for the same purpose are void. A `reset` takes the old password and all sessions.

    Returns:
        `{token, expires_at}`; the token is not stored, and shown this once.

    Raises:
        NotFound: There is no such user.
    """
    email = require_user(connection, user)
    token = random_token("afl")
    expires = now + LIFETIME[purpose]
    connection.execute(_CLEAR, {"user": user, "purpose": purpose, "now": now})
    connection.execute(
        _INSERT, {"hash": token_hash(token), "user": user, "purpose": purpose, "now": now, "expires": expires}
    )
    if purpose == "reset":
        store_password(connection, user, None)
        revoke_sessions(connection, user, because="password reset")
    record(connection, actor, f"user.{purpose}_link", email)
    return {"token": token, "expires_at": expires}


def look_at_link(connection: Connection, token: str, *, now: datetime) -> Link | None:
    """Whom a link would let in; None when it is used up, too old or none of ours."""
    row = connection.execute(_LOOK, {"hash": token_hash(token), "now": now}).one_or_none()
    return None if row is None else Link(row.user_id, row.purpose, row.email, row.has_password)


def use_link(connection: Connection, token: str, *, now: datetime) -> bool:
    """Use it up; False when somebody was faster."""
    return connection.execute(_USE, {"hash": token_hash(token), "now": now}).rowcount == 1


def void_links(connection: Connection, user: int) -> None:
    """Let none of a user's links work any more."""
    connection.execute(_VOID, {"user": user})


def first_login(connection: Connection, *, now: datetime) -> str | None:
    """The token of a one-time link for the first administrator; None as soon as anybody else can log in.

    Made anew at each start of `standalone` until somebody has set a password or made another user.
    """
    nobody_yet, user = connection.execute(_NOBODY_YET, {"email": FIRST_ADMIN}).one()
    if not nobody_yet:
        return None
    if user is None:
        made = create_user(connection, FIRST_ADMIN, name="Administrator", instance_admin=True, actor="system")
        user = made["id"]
    return str(make_link(connection, user, "login", now=now, actor="system")["token"])

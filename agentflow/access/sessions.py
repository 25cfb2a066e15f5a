"""Sessions: of browsers, and families of refresh tokens of which each is good for one use."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from agentflow.access.accounts import document
from agentflow.access.tokens import Token, is_ours, new_salt, read_token
from agentflow.db.notify import notify_rights
from agentflow.ids import uuid7
from agentflow.keys import KeyRing

Kind = Literal["browser", "token"]

LIFETIME = timedelta(days=30)  #: Of a session, from the login.
IDLE = timedelta(days=7)  #: A session that is not used for so long is over.
#: A refresh token that was used just now gets the same answer again: two tabs, or an answer that was lost on the way.
GRACE = timedelta(seconds=10)
_NOTE_USE = timedelta(minutes=1)  # `used_at` is written at most so often

_INSERT = text("""
INSERT INTO session (id, user_id, kind, salt, created_at, used_at, expires_at, address, user_agent)
VALUES (:id, :user, :kind, :salt, :now, :now, :expires, :address, :user_agent)
""")
_FIND = text("""
SELECT s.id, s.user_id, s.kind, s.salt, s.generation, s.rotated_at, s.used_at, s.expires_at, s.revoked_at, u.disabled, u.email
FROM session s JOIN app_user u ON u.id = s.user_id WHERE s.id = :id
""")
_LOCKED = text(f"{_FIND.text} FOR UPDATE OF s")
_ROTATE = text("UPDATE session SET generation = generation + 1, rotated_at = :now, used_at = :now WHERE id = :id")
_USED = text("UPDATE session SET used_at = :now WHERE id = :id")
_REVOKE = text("UPDATE session SET revoked_at = :now, revoked_because = :because WHERE id = :id AND revoked_at IS NULL")
_REVOKE_ALL = text("""
UPDATE session SET revoked_at = clock_timestamp(), revoked_because = :because
WHERE user_id = :user AND revoked_at IS NULL AND id IS DISTINCT FROM CAST(:keep AS uuid)
""")
_LIST = text("""
SELECT id::text AS id, kind, created_at, used_at, expires_at, address, user_agent FROM session
WHERE user_id = :user AND revoked_at IS NULL AND expires_at > :now AND used_at > :idle ORDER BY used_at DESC LIMIT 100
""")
_FORGET = text("""
DELETE FROM session WHERE user_id = :user AND (expires_at < :long_ago OR revoked_at < :long_ago)
""")
_KEEP_ENDED = timedelta(days=30)  # so that a token of an ended session is still told from a forged one


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that was just opened or refreshed."""

    id: uuid.UUID
    user: int
    salt: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a refresh token led to."""

    outcome: Literal["rotated", "repeated", "reused", "refused"]
    session: OpenSession | None = None
    email: str = ""


def open_session(
    connection: Connection, user: int, kind: Kind, *, now: datetime, address: str = "", user_agent: str = ""
) -> OpenSession:
    """Begin a session. Its id is always new: nothing that a browser brought along is taken over."""
    session, salt = uuid7(now), new_salt()
    connection.execute(
        _INSERT,
        {
            "id": session,
            "user": user,
            "kind": kind,
            "salt": salt,
            "now": now,
            "expires": now + LIFETIME,
            "address": address[:100],
            "user_agent": user_agent[:200],
        },
    )
    connection.execute(_FORGET, {"user": user, "long_ago": now - _KEEP_ENDED})
    return OpenSession(session, user, salt, 0)


def is_open(row: Row[Any], now: datetime) -> bool:
    """Whether a session's row lets anybody in."""
    return row.revoked_at is None and not row.disabled and row.expires_at > now and row.used_at + IDLE > now


def find_session(connection: Connection, session: uuid.UUID) -> Row[Any] | None:
    """The row of a session with its user's state, open or not."""
    return connection.execute(_FIND, {"id": session}).one_or_none()


def note_use(connection: Connection, row: Row[Any], now: datetime) -> None:
    """Keep a session alive; written once a minute at most."""
    if now - row.used_at > _NOTE_USE:
        connection.execute(_USED, {"id": row.id, "now": now})


def rotate(connection: Connection, ring: KeyRing, text_: str, *, now: datetime) -> Rotation:
    """Use a refresh token up. A token that had been used before ends its whole family: one of two holders stole it."""
    token = read_token(text_)
    row = connection.execute(_LOCKED, {"id": token.session}).one_or_none() if token else None
    if token is None or row is None or row.kind != "token" or not is_ours(ring, "refresh", token, row.salt):
        return Rotation("refused")
    if not is_open(row, now):
        return Rotation("refused", email=row.email)
    outcome = judge(token, row.generation, row.rotated_at, now)
    if outcome == "reused":
        revoke_session(connection, row.id, because="refresh token used twice", now=now)
        return Rotation("reused", email=row.email)
    if outcome == "rotated":
        connection.execute(_ROTATE, {"id": row.id, "now": now})
    return Rotation(outcome, OpenSession(row.id, row.user_id, row.salt, token.generation + 1), row.email)


def judge(
    token: Token, generation: int, rotated_at: datetime | None, now: datetime
) -> Literal["rotated", "repeated", "reused"]:
    """What the use of a token of ours means: `generation` is the number of the one in force."""
    if token.generation == generation:
        return "rotated"
    if token.generation == generation - 1 and rotated_at is not None and now - rotated_at <= GRACE:
        return "repeated"
    return "reused"


def revoke_session(connection: Connection, session: uuid.UUID, *, because: str, now: datetime) -> bool:
    """End a session; False if it had ended."""
    ended = connection.execute(_REVOKE, {"id": session, "because": because, "now": now}).rowcount == 1
    if ended:
        notify_rights(connection)
    return ended


def revoke_sessions(connection: Connection, user: int, *, because: str, keep: uuid.UUID | None = None) -> int:
    """End all sessions of a user, but one; returns how many."""
    ended = connection.execute(_REVOKE_ALL, {"user": user, "because": because, "keep": keep}).rowcount
    if ended:
        notify_rights(connection)
    return ended


def list_sessions(connection: Connection, user: int, *, now: datetime) -> list[dict[str, Any]]:
    """Open sessions of a user, the one used last first."""
    return [document(row) for row in connection.execute(_LIST, {"user": user, "now": now, "idle": now - IDLE})]

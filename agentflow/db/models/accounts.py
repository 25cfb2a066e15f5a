"""Who may come in: users, memberships, sessions, API keys, one-time links, and guesses that were counted.

Only the role `agentflow_auth` reads these tables, never the one that serves requests (agentflow.db.tenancy). Nothing in
them opens a door by itself: passwords and keys are hashed, and the tokens of a session need the secret key, too.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from agentflow.db.models.base import Big, BigId, Bytes, Model, No, Now, TextList, Zero, one_of

ROLES = ("viewer", "operator", "editor", "admin")  #: As in agentflow.access.roles, which stands above this package.
SESSION_KINDS = ("browser", "token")
LINK_PURPOSES = ("login", "reset")


class AppUser(Model):
    """A person, or a program with an address."""

    __tablename__ = "app_user"
    __table_args__ = (
        CheckConstraint("email = lower(email)", name="email_small"),
        UniqueConstraint("oidc_issuer", "oidc_subject"),
        CheckConstraint("(oidc_issuer IS NULL) = (oidc_subject IS NULL)", name="oidc_whole"),
    )

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str | None]  #: Argon2id; null: no login by password.
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]  #: Who this is at the issuer; an email can be handed on, a subject cannot.
    disabled: Mapped[No]
    instance_admin: Mapped[No]  #: Every role in every workspace, and the workspaces themselves.
    created_at: Mapped[Now]
    created_by: Mapped[str]
    updated_at: Mapped[Now]


class Membership(Model):
    """A user's role in a workspace."""

    __tablename__ = "membership"
    __table_args__ = (one_of("role", ROLES), Index("ix_membership_workspace", "workspace_id"))

    user_id: Mapped[Big] = mapped_column(ForeignKey("app_user.id", ondelete="CASCADE"), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str]
    created_at: Mapped[Now]
    created_by: Mapped[str]


class UserSession(Model):
    """A login: of a browser, or a family of refresh tokens that follow each other."""

    __tablename__ = "session"
    __table_args__ = (one_of("kind", SESSION_KINDS), Index("ix_session_user", "user_id"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[Big] = mapped_column(ForeignKey("app_user.id", ondelete="CASCADE"))
    kind: Mapped[str]
    salt: Mapped[Bytes]  #: Goes into the code of its tokens: the secret key alone forges none.
    generation: Mapped[Zero]  #: Number of the refresh token in force; an earlier one has been used.
    rotated_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]  #: Kept to the minute.
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_because: Mapped[str | None]
    address: Mapped[str] = mapped_column(server_default="")
    user_agent: Mapped[str] = mapped_column(server_default="")


class ApiKey(Model):
    """A long random text that a program sends instead of logging in."""

    __tablename__ = "api_key"
    __table_args__ = (
        Index("uq_api_key_name", "workspace_id", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
        Index("ix_api_key_user", "user_id"),
    )

    id: Mapped[BigId]
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id", ondelete="CASCADE"))
    user_id: Mapped[Big | None] = mapped_column(
        ForeignKey("app_user.id", ondelete="CASCADE")
    )  #: May do no more than this user.
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)  #: Its beginning, which may be shown.
    key_hash: Mapped[Bytes] = mapped_column(unique=True)  #: SHA-256; the key has 256 random bits.
    scopes: Mapped[TextList]
    created_at: Mapped[Now]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]  #: Kept to the minute.
    revoked_at: Mapped[datetime | None]


class LoginLink(Model):
    """Opens the door once, without a password."""

    __tablename__ = "login_link"
    __table_args__ = (one_of("purpose", LINK_PURPOSES), Index("ix_login_link_user", "user_id"))

    token_hash: Mapped[Bytes] = mapped_column(primary_key=True)
    user_id: Mapped[Big] = mapped_column(ForeignKey("app_user.id", ondelete="CASCADE"))
    purpose: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class LoginThrottle(Model):
    """Failed logins of an account or from an address."""

    __tablename__ = "login_throttle"

    key: Mapped[str] = mapped_column(primary_key=True)  #: A hash: addresses of people are not kept.
    failures: Mapped[int]
    failed_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]

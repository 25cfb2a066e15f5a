"""From whom an identity provider vouches for to a user."""

from __future__ import annotations

from sqlalchemy import Connection, text

from agentflow.access.accounts import read_email, record
from agentflow.access.links import void_links
from agentflow.access.roles import Role
from agentflow.access.sessions import revoke_sessions
from agentflow.access.users import create_user, store_password
from agentflow.access.workspaces import grant_role
from agentflow.catalog.lookup import DEFAULT_WORKSPACE

_BY_SUBJECT = text("SELECT id, disabled FROM app_user WHERE oidc_issuer = :issuer AND oidc_subject = :subject")
_BY_EMAIL = text("SELECT id, disabled, oidc_subject FROM app_user WHERE email = :email FOR UPDATE")
_LINK = text("UPDATE app_user SET oidc_issuer = :issuer, oidc_subject = :subject WHERE id = :id")


def identify(
    connection: Connection, issuer: str, subject: str, *, email: str | None, name: str, default_role: Role | None
) -> int | None:
    """The user of an identity: known by the subject, else by an address that the provider has verified, which is then
    linked; else made, if strangers get a role. None: nobody, or somebody who is disabled or linked to another identity.

    Whoever had a password, a session or a link before never proved that the address is theirs, and an admin of any
    workspace can make a user for somebody else's: with the link all that ends.
    """
    key = {"issuer": issuer, "subject": subject}
    row = connection.execute(_BY_SUBJECT, key).one_or_none()
    if row is not None:
        return None if row.disabled else int(row.id)
    if email is None:
        return None
    address = read_email(email)
    known = connection.execute(_BY_EMAIL, {"email": address}).one_or_none()
    if known is not None:
        if known.disabled or known.oidc_subject is not None:
            return None
        connection.execute(_LINK, {**key, "id": known.id})
        store_password(connection, known.id, None)
        revoke_sessions(connection, known.id, because="linked to an identity provider")
        void_links(connection, known.id)
        record(connection, f"user:{address}", "user.linked", address, issuer=issuer)
        return int(known.id)
    if default_role is None:
        return None
    user: int = create_user(connection, address, name=name, oidc=(issuer, subject), actor=f"oidc:{issuer}")["id"]
    grant_role(connection, user, DEFAULT_WORKSPACE, default_role, actor=f"oidc:{issuer}")
    return user

"""The database roles behind the policies: made once for a whole cluster, which many of our databases may share."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors as pg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from agentflow.db.tenancy import ROLES
from agentflow.errors import DatabaseNotReady

_MISSING = text(
    "SELECT r FROM unnest(CAST(:roles AS text[])) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)"
)
_UNUSABLE = text("""
SELECT r FROM unnest(CAST(:roles AS text[])) r LEFT JOIN pg_roles p ON p.rolname = r
WHERE p.oid IS NULL OR NOT pg_has_role(current_user, p.oid, 'SET')
""")
_NOT_OURS = text("SELECT r FROM unnest(CAST(:roles AS text[])) r WHERE NOT pg_has_role(current_user, r, 'SET')")
_USER = text("SELECT quote_ident(current_user)")
#: Policies do not hold these back.
_UNBOUND = text("""
SELECT rolname::text FROM pg_roles WHERE rolname = ANY(CAST(:roles AS text[])) AND (rolsuper OR rolbypassrls) ORDER BY 1
""")
_IS_SUPERUSER = text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
#: Another database of the cluster may be doing the same at this moment.
_MADE_BY_ANOTHER = (pg.DuplicateObject, pg.UniqueViolation)


def ensure_roles(connection: Connection) -> None:
    """Make the roles that are missing and let the current user take each of them.

    Raises:
        DatabaseNotReady: The current user may not; the hint is what a superuser has to run.
    """
    for role in connection.scalars(_MISSING, {"roles": list(ROLES)}).all():
        _run(connection, f"CREATE ROLE {role} NOLOGIN")
    for role in connection.scalars(_NOT_OURS, {"roles": list(ROLES)}).all():
        _run(connection, f"GRANT {role} TO CURRENT_USER WITH SET TRUE, INHERIT FALSE")


def unusable_roles(connection: Connection, roles: Sequence[str] = ROLES) -> list[str]:
    """Those that do not exist, or that the current user may not take."""
    return list(connection.scalars(_UNUSABLE, {"roles": list(roles)}))


def require_roles(connection: Connection, roles: Sequence[str]) -> None:
    """Raise unless the current user may take all of these.

    Raises:
        DatabaseNotReady: It may not, or they do not exist; the hint is what to do.
    """
    found = unusable_roles(connection, roles)
    if found:
        user = connection.scalar(_USER)
        raise DatabaseNotReady(
            f"The database user {user} may not act as {', '.join(found)}.",
            hint=f"run `agentflow db upgrade`, or as a superuser: {statements(connection)}",
        )


def unbound_roles(connection: Connection) -> list[str]:
    """Those of the roles that no policy holds back, because somebody has made them superusers or let them bypass."""
    return list(connection.scalars(_UNBOUND, {"roles": list(ROLES)}))


def is_superuser(connection: Connection) -> bool:
    """Whether the current user is one."""
    return bool(connection.scalar(_IS_SUPERUSER))


def statements(connection: Connection) -> str:
    """What a superuser runs so that the current user may take the roles."""
    user = connection.scalar(_USER)
    create = [f"CREATE ROLE {role} NOLOGIN;" for role in connection.scalars(_MISSING, {"roles": list(ROLES)})]
    return " ".join([*create, f"GRANT {', '.join(ROLES)} TO {user} WITH SET TRUE, INHERIT FALSE;"])


def _run(connection: Connection, statement: str) -> None:
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError as error:
        if isinstance(error.orig, _MADE_BY_ANOTHER):
            return
        if isinstance(error.orig, pg.InsufficientPrivilege):
            raise _refused(connection) from error
        raise


def _refused(connection: Connection) -> DatabaseNotReady:
    user = connection.scalar(_USER)
    return DatabaseNotReady(
        f"The database user {user} may not make the roles that keep workspaces apart ({', '.join(ROLES)}).",
        hint=f"as a superuser, run once: {statements(connection)}",
    )

"""The database roles behind the policies: made once for a whole cluster, which many of our databases may share."""

from __future__ import annotations

from psycopg import errors as pg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from agentflow.db.tenancy import ROLES
from agentflow.errors import DatabaseNotReady

_MISSING = text(
    "SELECT r FROM unnest(CAST(:roles AS text[])) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)"
)
_NOT_OURS = text("SELECT r FROM unnest(CAST(:roles AS text[])) r WHERE NOT pg_has_role(current_user, r, 'SET')")
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
    user = connection.scalar(text("SELECT quote_ident(current_user)"))
    missing = connection.scalars(_MISSING, {"roles": list(ROLES)}).all()
    create = [f"CREATE ROLE {role} NOLOGIN;" for role in missing]
    return DatabaseNotReady(
        f"The database user {user} may not make the roles that keep workspaces apart ({', '.join(ROLES)}).",
        hint="as a superuser, run once: "
        + " ".join([*create, f"GRANT {', '.join(ROLES)} TO {user} WITH SET TRUE, INHERIT FALSE;"]),
    )

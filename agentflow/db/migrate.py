"""Migrations: up, down, check; always under an advisory lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import errors as pg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

import agentflow
from agentflow.clock import utc_now
from agentflow.db import tenancy
from agentflow.db.engine import make_engine
from agentflow.db.models import Model
from agentflow.db.partitions import ensure_partitions, is_partition
from agentflow.db.roles import ensure_roles
from agentflow.errors import DatabaseNotReady


def scripts_path() -> Path:
    """Where the migrations are: inside the wheel, else beside the package in a checkout."""
    package = Path(agentflow.__file__).parent
    packed = package / "_migrations"
    return packed if packed.is_dir() else package.parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts_path()).replace("%", "%%"))
    return config


def head() -> str:
    """The revision this code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(connection: Connection) -> str | None:
    """The revision the database is at; None when it has no schema of ours."""
    try:
        return MigrationContext.configure(connection).get_current_revision()
    except ProgrammingError:
        return None


def is_known(revision: str) -> bool:
    """Whether this version has the migration: one that it lacks was made by a newer version."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _run(url: str, step: Callable[[Config], None], *, ahead: bool) -> None:
    engine = make_engine(url, pool_size=1, application_name="agentflow-migrate")
    try:
        with engine.connect() as connection:
            _refuse_newer(connection)
            ensure_roles(connection)
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            step(config)
            if ahead:
                ensure_partitions(connection, utc_now())
                connection.commit()
                tenancy.apply(connection)
    except CommandError as error:
        raise DatabaseNotReady(f"The schema cannot be changed: {error}", hint="see `agentflow db current`") from error
    except DBAPIError as error:
        if not isinstance(error.orig, pg.LockNotAvailable | pg.QueryCanceled):
            raise
        raise DatabaseNotReady(
            f"The schema cannot be changed while others use it: {str(error.orig).splitlines()[0]}.",
            hint="end long transactions (see pg_stat_activity) and try again",
        ) from error
    finally:
        engine.dispose()


def _refuse_newer(connection: Connection) -> None:
    found = current(connection)
    connection.rollback()
    if found is not None and not is_known(found):
        raise _newer(found)


def _newer(found: str) -> DatabaseNotReady:
    return DatabaseNotReady(
        f"The database is at revision {found}, which this version does not know: a newer AgentFlow has used it.",
        hint="install that version, or use another database",
    )


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`; at the head, make the partitions of the next months and set everybody's rights.

    Raises:
        DatabaseNotReady: A newer version has changed the schema, others hold its tables, or the roles of the database
            cannot be made.
    """
    _run(url, lambda config: command.upgrade(config, revision), ahead=revision == "head")


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision` (`base`: nothing left but the roles, which belong to the whole cluster).

    The rights of the webserver are taken away; that version's own `upgrade` gives them again. Raises like `upgrade`.
    """

    def step(config: Config) -> None:
        tenancy.remove(config.attributes["connection"])
        command.downgrade(config, revision)

    _run(url, step, ahead=False)


def require_current(connection: Connection) -> None:
    """Raise unless the schema is the one this code needs.

    Raises:
        DatabaseNotReady: No schema, an older or an unknown one.
    """
    found, needed = current(connection), head()
    if found == needed:
        return
    if found is not None and not is_known(found):
        raise _newer(found)
    state = "has no AgentFlow schema" if found is None else f"is at revision {found}"
    raise DatabaseNotReady(f"The database {state}; this version needs {needed}.", hint="run `agentflow db upgrade`")


def differences(connection: Connection) -> list[object]:
    """What the models say and the database does not, or the other way round; empty when they agree."""
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_server_default": True,
            "include_name": lambda name, kind, _parents: (
                not (kind == "table" and name is not None and is_partition(name))
            ),
        },
    )
    found = list(compare_metadata(context, Model.metadata))
    connection.execute(text("SELECT 1"))  # the comparison must not leave a broken transaction behind
    return found

"""A look at a database, for `wait`.

The only module of the node types that may import psycopg (pyproject.toml says so to import-linter): the rule keeps
runners away from AgentFlow's own database, and this one connects only where a connection of the user's leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.wait_conditions import SqlCondition

if TYPE_CHECKING:
    import psycopg

_CONNECT: Final = 10  # seconds to reach the server
_PATIENCE: Final = 30  # seconds for a query
#: Fields of a connection of type postgres, and what libpq calls them.
_FIELDS: Final = {
    "host": "host",
    "port": "port",
    "database": "dbname",
    "user": "user",
    "password": "password",
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
}


async def look_at_database(config: SqlCondition, context: NodeContext) -> str | None:
    """Why the condition does not hold; None when it does.

    Raises:
        NodeFailed: The connection is of another type, or the query is wrong.
    """
    try:
        import psycopg
    except ImportError as error:
        raise NodeFailed(
            "waiting for a database needs psycopg where the node runs: pip install 'psycopg[binary]'",
            kind="PsycopgMissing",
        ) from error
    fields = libpq_fields(config.connection, context.connections.get(config.connection, {}))
    try:
        address = psycopg.conninfo.make_conninfo("", **fields, connect_timeout=_CONNECT)
        async with await psycopg.AsyncConnection.connect(address) as connection:
            await connection.set_read_only(True)
            row = await _first_row(connection, config)
    except psycopg.OperationalError as error:  # not reached, or too slow: it may be up again later
        return f"the database cannot be asked: {_line(error)}"
    except psycopg.Error as error:
        raise NodeFailed(f"the query failed: {_line(error)}", kind=type(error).__name__) from error
    if row is None:
        return "the query gives no row"
    return None if row[0] else f"the query gives {row[0]!r:.60}"


def libpq_fields(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """What libpq is told.

    Raises:
        NodeFailed: The connection is of another type, or has a field that means nothing here.
    """
    if given.get("type") != "postgres":
        raise NodeFailed(
            f"the connection `{name}` is of type {given.get('type')!r}, not postgres", kind="ConnectionUnfit"
        )
    fields = {key: value for key, value in given.items() if key != "type"}
    if unknown := sorted(fields.keys() - _FIELDS.keys()):
        known = ", ".join(_FIELDS)
        raise NodeFailed(f"the connection `{name}` has a field `{unknown[0]}`; known: {known}", kind="ConnectionUnfit")
    return {_FIELDS[key]: str(value) for key, value in fields.items()}


async def _first_row(connection: psycopg.AsyncConnection[Any], config: SqlCondition) -> Any:
    """The first row.

    A binary cursor makes the server take one statement and no more: none can end the read-only transaction.
    """
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{_PATIENCE}s"])
        await cursor.execute(config.query, config.params or None)
        return await cursor.fetchone() if cursor.description is not None else None


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

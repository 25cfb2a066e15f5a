"""Names of what workflows refer to: pools, variables, secrets, connections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, TextClause

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import workspace_id
from agentflow.cursors import read_cursor, write_cursor
from agentflow.errors import NotFound, UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def check_name(name: str, kind: str) -> None:
    """Refuse what is not an identifier.

    Raises:
        UsageError: Says what a name looks like.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a {kind}.", hint="letters, digits, _ and -, not beginning with a digit"
        )


#: The end of a statement that `list_named` runs.
BY_NAME = """
  AND (CAST(:name AS text) IS NULL OR name = :name) AND (CAST(:after AS text) IS NULL OR name > :after)
ORDER BY name LIMIT :limit
"""


def list_named(
    connection: Connection,
    statement: TextClause,
    kind: str,
    *,
    name: str | None,
    limit: int | None,
    cursor: str | None,
    workspace: str,
) -> tuple[Sequence[Row[Any]], str | None]:
    """A page of rows by name, and the cursor of the next page (None at the end).

    Args:
        connection: In a transaction.
        statement: Ends with BY_NAME; its rows have a `name`.
        kind: Whose cursors these are.
        name: Only the one of this name.
        limit: At most so many; None: all.
        cursor: `next_cursor` of the page before.
        workspace: Whose.

    Raises:
        UsageError: The cursor is not one of this list.
    """
    parameters = {
        "workspace": workspace_id(connection, workspace),
        "name": name,
        "after": None if cursor is None else read_cursor(kind, cursor, str),
        "limit": None if limit is None else limit + 1,
    }
    rows = connection.execute(statement, parameters).all()
    if limit is None or len(rows) <= limit:
        return rows, None
    return rows[:limit], write_cursor(kind, rows[limit - 1].name)


def delete_named(
    connection: Connection, statement: TextClause, kind: str, name: str, *, actor: str, workspace: str
) -> dict[str, Any]:
    """Run a DELETE by `:workspace` and `:name`, and audit it. Returns `{name, changed}`.

    Raises:
        NotFound: Nothing was deleted.
    """
    owner = workspace_id(connection, workspace)
    if connection.execute(statement, {"workspace": owner, "name": name}).rowcount == 0:
        raise NotFound(f"There is no {kind} {name!r}.", hint=f"`agentflow {kind}s list` shows what there is")
    audit(connection, owner, actor, f"{kind}.deleted", name)
    return {"name": name, "changed": True}

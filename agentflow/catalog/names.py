"""Names of what workflows refer to: pools, variables, secrets, connections."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, TextClause

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import workspace_id
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

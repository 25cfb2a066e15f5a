"""Pages of runs, filtered. Each filter has an index of its own to walk back on: a page costs what it shows (ENGINE 8)."""

from __future__ import annotations

import base64
import uuid
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from agentflow.catalog import find_workflow, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.errors import UsageError
from agentflow.runs.ids import parse_backfill_id
from agentflow.runs.show import SELECT_RUN, run_document

#: Only what is asked for stands in the statement: `:state IS NULL OR ...` would be one plan for all, by no index.
_FILTERS = {
    "workflows": "r.workflow_id = ANY(CAST(:workflows AS bigint[]))",
    "workflow": "r.workflow_id = :workflow",
    "state": "r.state = :state",
    "triggered_by": "r.triggered_by = :triggered_by",
    "backfill": "r.backfill_id = :backfill",
    "shown": "NOT r.hidden",
}
#: One that only `run FILE` knows counts too.
_WORKFLOWS = text("SELECT id FROM workflow WHERE workspace_id = :workspace AND name = :workflow")
AFTER_ALL = uuid.UUID(int=2**128 - 1)


@cache
def _list(filters: tuple[str, ...]) -> TextClause:
    conditions = "".join(f" AND {_FILTERS[name]}" for name in filters)
    return text(f"""
        {SELECT_RUN} WHERE r.workspace_id = :workspace AND r.id < :before{conditions}
        ORDER BY r.id DESC LIMIT :limit
    """)


def list_runs(
    connection: Connection,
    *,
    workflow: str | None = None,
    state: str | None = None,
    triggered_by: str | None = None,
    backfill: str | None = None,
    limit: int = 25,
    cursor: str | None = None,
    hidden: bool = False,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of runs, the newest first, and the cursor of the next page (None at the end).

    Raises:
        NotFound: There is no workflow of the name, or no backfill of the id, to filter by.
        UsageError: The cursor is not one of ours.
    """
    parameters: dict[str, Any] = {} if hidden else {"shown": True}
    if state is not None:
        parameters["state"] = state
    if triggered_by is not None:
        parameters["triggered_by"] = triggered_by
    if backfill is not None:
        parameters["backfill"] = parse_backfill_id(backfill)
    owner = workspace_id(connection, workspace)
    if workflow is not None:
        parameters |= _named(connection, owner, workflow, workspace)
    statement = _list(tuple(parameters))
    parameters |= {"workspace": owner, "before": read_cursor(cursor) if cursor else AFTER_ALL, "limit": limit + 1}
    rows = connection.execute(statement, parameters).all()
    following = write_cursor(rows[limit - 1].id) if len(rows) > limit else None
    return [run_document(row) for row in rows[:limit]], following


def _named(connection: Connection, owner: int, workflow: str, workspace: str) -> dict[str, int | list[int]]:
    found = list(connection.scalars(_WORKFLOWS, {"workspace": owner, "workflow": workflow}))
    if not found:
        find_workflow(connection, workflow, workspace=workspace)  # raises, and suggests a similar name
    return {"workflow": found[0]} if len(found) == 1 else {"workflows": found}


def write_cursor(last: uuid.UUID) -> str:
    """The cursor behind this id."""
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode()


def read_cursor(text_form: str) -> uuid.UUID:
    """The id that a cursor stands for.

    Raises:
        UsageError: It is not one of ours.
    """
    try:
        return uuid.UUID(bytes=base64.urlsafe_b64decode(text_form + "=="))
    except ValueError as error:
        raise UsageError(f"{text_form!r} is not a cursor.", hint="take `next_cursor` of the page before") from error

"""Pages of runs, filtered. Each filter has an index of its own to walk back on: a page costs what it shows (ENGINE 8)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from agentflow.catalog import find_workflow, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.models.history import SEARCH
from agentflow.ids import uuid7_floor
from agentflow.runs.ids import parse_backfill_id
from agentflow.runs.show import SELECT_RUN, run_document
from agentflow.states import RunState, TriggeredBy

CURSOR = "runs"
#: The words of the search, the last one perhaps only begun; no words: NULL, which matches nothing.
_QUERY = "CAST(nullif(CAST(plainto_tsquery('simple', :search) AS text), '') || ':*' AS tsquery)"
#: Only what is asked for stands in the statement: `:state IS NULL OR ...` would be one plan for all, by no index.
_FILTERS = {
    "workflows": "r.workflow_id = ANY(CAST(:workflows AS bigint[]))",
    "workflow": "r.workflow_id = :workflow",
    "state": "r.state = :state",
    "states": "r.state = ANY(CAST(:states AS text[]))",
    "triggered_by": "r.triggered_by = :triggered_by",
    "triggers": "r.triggered_by = ANY(CAST(:triggers AS text[]))",
    "backfill": "r.backfill_id = :backfill",
    "since": "r.id >= :since",
    "logical_from": "r.logical_date >= :logical_from",
    "logical_to": "r.logical_date < :logical_to",
    "search": f"({SEARCH} @@ {_QUERY} OR r.workflow_id = ANY(CAST(:named AS bigint[]))"
    " OR r.id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid))",
    "shown": "NOT r.hidden",
}
#: One that only `run FILE` knows counts too.
_WORKFLOWS = text("SELECT id FROM workflow WHERE workspace_id = :workspace AND name = :workflow")
_NAMED = text("""
SELECT id FROM workflow
WHERE workspace_id = :workspace AND strpos(lower(concat_ws(' ', name, title)), lower(:search)) > 0 LIMIT 1000
""")
_AFTER_ALL = uuid.UUID(int=2**128 - 1)
_ID = re.compile(r"[0-9a-f]{4,32}")
_DIGITS = 32


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
    states: Sequence[RunState] = (),
    triggered_by: Sequence[TriggeredBy] = (),
    created_from: datetime | None = None,
    created_to: datetime | None = None,
    logical_from: datetime | None = None,
    logical_to: datetime | None = None,
    search: str | None = None,
    backfill: str | None = None,
    limit: int = 25,
    cursor: str | None = None,
    hidden: bool = False,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of runs, the newest first, and the cursor of the next page (None at the end).

    Args:
        connection: In a transaction.
        workflow: Only of this one.
        states: Only in one of these; none: in any.
        triggered_by: Only started by one of these; none: by anything.
        created_from: Only created at this moment or later.
        created_to: Only created before.
        logical_from: Only with a logical date at this moment or later.
        logical_to: Only with an earlier logical date.
        search: Words of the note or the params, part of the workflow's name or title, or the begin of an id.
        backfill: Id of the backfill that made them.
        limit: At most so many.
        cursor: `next_cursor` of the page before.
        hidden: Those of `run FILE` too.
        workspace: Whose.

    Raises:
        NotFound: There is no workflow of the name, or no backfill of the id, to filter by.
        UsageError: The cursor is not one of this list.
    """
    owner = workspace_id(connection, workspace)
    before = _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, uuid.UUID)
    if created_to is not None:
        before = min(before, uuid7_floor(created_to))
    filters: dict[str, Any] = {} if hidden else {"shown": True}
    filters |= _among("state", "states", states) | _among("triggered_by", "triggers", triggered_by)
    if created_from is not None:
        filters["since"] = uuid7_floor(created_from)
    if logical_from is not None:
        filters["logical_from"] = logical_from
    if logical_to is not None:
        filters["logical_to"] = logical_to
    if backfill is not None:
        filters["backfill"] = parse_backfill_id(backfill)
    if workflow is not None:
        filters |= _of_workflow(connection, owner, workflow, workspace)
    parameters = filters | {"workspace": owner, "before": before, "limit": limit + 1}
    if search:
        filters["search"] = search
        parameters |= _sought(connection, owner, search)
    rows = connection.execute(_list(tuple(filters)), parameters).all()
    following = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [run_document(row) for row in rows[:limit]], following


def _among(one: str, several: str, values: Sequence[str]) -> dict[str, Any]:
    """One word walks back on an index of its own."""
    if not values:
        return {}
    words = [str(value) for value in values]
    return {one: words[0]} if len(words) == 1 else {several: words}


def _of_workflow(connection: Connection, owner: int, workflow: str, workspace: str) -> dict[str, int | list[int]]:
    found = list(connection.scalars(_WORKFLOWS, {"workspace": owner, "workflow": workflow}))
    if not found:
        find_workflow(connection, workflow, workspace=workspace)  # raises, and suggests a similar name
    return {"workflow": found[0]} if len(found) == 1 else {"workflows": found}


def _sought(connection: Connection, owner: int, search: str) -> dict[str, Any]:
    first, last = id_range(search)
    named = list(connection.scalars(_NAMED, {"workspace": owner, "search": search}))
    return {"search": search, "named": named, "first": first, "last": last}


def id_range(search: str) -> tuple[uuid.UUID, uuid.UUID] | tuple[None, None]:
    """The first and last id that begin with a text; None when no id does."""
    digits = search.strip().lower().replace("-", "")
    if not _ID.fullmatch(digits):
        return None, None
    return uuid.UUID(digits.ljust(_DIGITS, "0")), uuid.UUID(digits.ljust(_DIGITS, "f"))

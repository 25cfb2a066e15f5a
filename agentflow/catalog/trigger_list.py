"""Reading triggers: what starts runs by itself, and when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow, workspace_id
from agentflow.clock import iso
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.db.queries.locks import database_now
from agentflow.errors import AgentFlowError
from agentflow.triggers import CLOCKLESS, describe, upcoming

CURSOR = "triggers"

_LIST = text("""
SELECT t.id, t.identity, t.type, t.config, t.paused, t.next_fire_at, w.name AS workflow,
  w.paused OR w.missing AS workflow_paused, last.logical_date AS last_fire, last.run_id AS last_run
FROM trigger t JOIN workflow w ON w.id = t.workflow_id
LEFT JOIN LATERAL (
  SELECT f.logical_date, f.run_id FROM fire f WHERE f.trigger_id = t.id ORDER BY f.logical_date DESC LIMIT 1
) AS last ON true
WHERE w.workspace_id = :workspace AND t.active AND (CAST(:workflow AS bigint) IS NULL OR w.id = :workflow)
  AND t.id > :after
ORDER BY t.id LIMIT :limit
""")


def list_triggers(
    connection: Connection,
    *,
    workflow: str | None = None,
    fires: int = 0,
    limit: int = 25,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of triggers of published workflows, and the cursor of the next page.

    Args:
        connection: In a transaction.
        workflow: Only of this one.
        fires: How many of its next fire times to tell of each.
        limit: At most so many triggers.
        cursor: `next_cursor` of the page before.
        workspace: Whose.

    Raises:
        NotFound: There is no such workflow.
        UsageError: The cursor is not one of this list.
    """
    rows = connection.execute(
        _LIST,
        {
            "workspace": workspace_id(connection, workspace),
            "workflow": None if workflow is None else find_workflow(connection, workflow, workspace=workspace).id,
            "after": 0 if cursor is None else read_cursor(CURSOR, cursor, big_int),
            "limit": limit + 1,
        },
    ).all()
    now = database_now(connection)
    following = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [_document(row, now, fires) for row in rows[:limit]], following


def _document(row: Row[Any], now: datetime, fires: int) -> dict[str, Any]:
    resting = row.paused or row.workflow_paused
    return {
        "id": row.id,
        "workflow": row.workflow,
        "name": _name(row),
        "type": row.type,
        "config": row.config,
        "paused": row.paused,
        "workflow_paused": row.workflow_paused,
        "next_fire": None if resting else iso(row.next_fire_at),
        "fires": [] if resting else _fires(row, now, fires),
        "last_fire": iso(row.last_fire),
        "last_run": str(row.last_run) if row.last_run is not None else None,
    }


def _name(row: Row[Any]) -> str:
    try:
        return describe(row.config)
    except AgentFlowError:  # stored by a version that knew more types
        return str(row.type)


def _fires(row: Row[Any], now: datetime, count: int) -> list[dict[str, Any]]:
    if row.type in CLOCKLESS or count == 0:
        return []
    try:
        return [{"at": iso(fire.at), "note": fire.note} for fire in upcoming([row.config], count, now)]
    except AgentFlowError:  # its time zone is unknown here
        return []

"""Reading backfills: one, or a page of many."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import find_workflow, workspace_id
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.errors import NotFound
from agentflow.runs.ids import parse_backfill_id
from agentflow.states import RUN_FINAL, RunState
from agentflow.triggers import describe

CURSOR = "backfills"
_AFTER_ALL = uuid.UUID(int=2**128 - 1)

_SELECT = """
SELECT b.*, w.name AS workflow, v.version, c.states
FROM backfill b JOIN workflow w ON w.id = b.workflow_id JOIN workflow_version v ON v.id = b.version_id
LEFT JOIN LATERAL (
  SELECT json_object_agg(s.state, s.n) AS states FROM (
    SELECT r.state, count(*) AS n FROM run r
    WHERE r.backfill_id = b.id AND r.parent_run_id IS NULL GROUP BY r.state) AS s) AS c ON true
"""
_ONE = text(f"{_SELECT} WHERE b.workspace_id = :workspace AND b.id = :id")
_LIST = text(f"""
{_SELECT}
WHERE b.workspace_id = :workspace AND b.id < :before AND (CAST(:workflow AS text) IS NULL OR w.name = :workflow)
  AND (CAST(:state AS text) IS NULL OR b.state = :state)
ORDER BY b.id DESC LIMIT :limit
""")


def _document(row: Any) -> dict[str, Any]:
    states = {state.value: (row.states or {}).get(state.value, 0) for state in RunState}
    return {
        "id": str(row.id),
        "workflow": row.workflow,
        "version": row.version,
        "trigger": describe(row.trigger_config),
        "state": row.state,
        "from": iso(row.first_date),
        "to": iso(row.last_date),
        "reprocess": row.reprocess,
        "reverse": row.reverse,
        "max_active_runs": row.max_active_runs,
        "params": row.params,
        "counts": {
            "total": row.total,
            "skipped": row.skipped,
            "left": 0 if row.exhausted else max(0, row.total - row.made - row.skipped),
            "done": sum(states[state.value] for state in RUN_FINAL),
            **states,
        },
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
        "finished_at": iso(row.finished_at),
    }


def no_backfill(backfill_id: str) -> NotFound:
    """The error for an id that no backfill has."""
    return NotFound(f"There is no backfill {backfill_id}.", hint="`agentflow backfill list` shows their ids")


def show_backfill(connection: Connection, backfill_id: str, *, workspace: str = DEFAULT_WORKSPACE) -> dict[str, Any]:
    """One backfill.

    Its `counts` are of dates (`total`, `skipped`: they kept their run, `left`: not looked at yet) and of its runs (`done`:
    ended; and by state).

    Raises:
        NotFound: No such backfill.
    """
    key = {"workspace": workspace_id(connection, workspace), "id": parse_backfill_id(backfill_id)}
    row = connection.execute(_ONE, key).one_or_none()
    if row is None:
        raise no_backfill(backfill_id)
    return _document(row)


def list_backfills(
    connection: Connection,
    *,
    workflow: str | None = None,
    state: str | None = None,
    limit: int = 25,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of backfills, the newest first, and the cursor of the next page (None at the end).

    Raises:
        NotFound: There is no workflow of the name to filter by.
        UsageError: The cursor is not one of ours.
    """
    if workflow is not None:
        find_workflow(connection, workflow, workspace=workspace)
    before = _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, uuid.UUID)
    rows = connection.execute(
        _LIST,
        {
            "workspace": workspace_id(connection, workspace),
            "before": before,
            "workflow": workflow,
            "state": state,
            "limit": limit + 1,
        },
    ).all()
    following = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [_document(row) for row in rows[:limit]], following

"""Reading the audit log."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE, workspace_id
from agentflow.clock import iso
from agentflow.cursors import big_int, read_cursor, write_cursor

_LIST = text("""
SELECT id, at, actor, action, subject, detail FROM audit_event
WHERE workspace_id = :workspace AND id < :before
  AND (CAST(:subject AS text) IS NULL OR subject = :subject OR starts_with(subject, :subject || '/'))
  AND (CAST(:action AS text) IS NULL OR action = :action OR starts_with(action, :action || '.'))
  AND (CAST(:actor AS text) IS NULL OR actor = :actor)
  AND split_part(action, '.', 1) <> ALL (CAST(:without AS text[]))
ORDER BY id DESC LIMIT :limit
""")
_AFTER_ALL = 2**63 - 1
CURSOR = "events"


def list_events(
    connection: Connection,
    *,
    subject: str | None = None,
    action: str | None = None,
    actor: str | None = None,
    without: Collection[str] = (),
    limit: int = 50,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of what people and the system did, the newest first, and the cursor of the next page.

    Args:
        connection: In a transaction.
        subject: Only what was done to this run, workflow, …; a run's id also finds what was done to its nodes.
        action: `run.cleared`, or `run` for all of that kind.
        actor: `cli:ada`, `system`, …
        without: Nothing of these kinds: `user` leaves out `user.created`.
        limit: At most so many.
        cursor: `next_cursor` of the page before.
        workspace: Whose.

    Raises:
        UsageError: The cursor is not one of ours.
    """
    rows = connection.execute(
        _LIST,
        {
            "workspace": workspace_id(connection, workspace),
            "before": _AFTER_ALL if cursor is None else read_cursor(CURSOR, cursor, big_int),
            "subject": subject,
            "action": action,
            "without": list(without),
            "actor": actor,
            "limit": limit + 1,
        },
    ).all()
    following = write_cursor(CURSOR, rows[limit - 1].id) if len(rows) > limit else None
    return [
        {"at": iso(row.at), "actor": row.actor, "action": row.action, "subject": row.subject, "detail": row.detail}
        for row in rows[:limit]
    ], following

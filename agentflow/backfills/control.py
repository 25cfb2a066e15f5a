"""Pausing and cancelling backfills."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text

from agentflow.backfills.show import no_backfill
from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, workspace_id
from agentflow.db.notify import notify_ready
from agentflow.db.queries.locks import lock_runs
from agentflow.errors import Conflict
from agentflow.runs.cancel import stop_runs
from agentflow.runs.ids import parse_backfill_id
from agentflow.states import BACKFILL_FINAL, BackfillState, RunState

_LOCK = text(
    "SELECT id, workspace_id, state FROM backfill WHERE workspace_id = :workspace AND id = :id FOR NO KEY UPDATE"
)
_MOVE = text("""
UPDATE backfill SET state = :state, finished_at = CASE WHEN :state = 'cancelled' THEN clock_timestamp() END WHERE id = :id
""")
#: Its own runs; stopping one stops its sub-runs.
_OPEN = text("""
SELECT id FROM run WHERE backfill_id = :id AND backfill_id IS NOT NULL AND parent_run_id IS NULL
  AND state IN ('queued', 'running')
""")


def set_backfill_paused(
    connection: Connection, backfill_id: str, paused: bool, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Let a backfill start nothing more, or go on. Runs that run already go on. Returns `{id, changed}`.

    Raises:
        NotFound: No such backfill.
        Conflict: It has ended.
    """
    row = _lock(connection, backfill_id, workspace)
    if row.state in BACKFILL_FINAL:
        raise Conflict(f"The backfill {backfill_id} has ended: {row.state}.", hint="make a new one")
    wanted = BackfillState.PAUSED if paused else BackfillState.RUNNING
    if row.state == wanted:
        return {"id": backfill_id, "changed": False}
    connection.execute(_MOVE, {"id": row.id, "state": wanted.value})
    audit(connection, row.workspace_id, actor, f"backfill.{'paused' if paused else 'unpaused'}", backfill_id)
    notify_ready(connection)
    return {"id": backfill_id, "changed": True}


def cancel_backfill(
    connection: Connection,
    backfill_id: str,
    *,
    running: bool = False,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """End a backfill: it makes no more runs, and those of it that are queued are cancelled.

    Args:
        connection: The caller's transaction.
        backfill_id: The backfill.
        running: Cancel its running runs too; else they end by themselves. May be asked for after a cancel without.
        actor: Who asks.
        workspace: Whose.

    Returns:
        `{id, changed, cancelled: number of runs}`.

    Raises:
        NotFound: No such backfill.
    """
    row = _lock(connection, backfill_id, workspace)
    was_final = row.state in BACKFILL_FINAL
    if not was_final:
        connection.execute(_MOVE, {"id": row.id, "state": BackfillState.CANCELLED.value})
    stopped = _stop(connection, row.id, running=running) if row.state != BackfillState.SUCCESS else 0
    if not was_final or stopped:
        audit(connection, row.workspace_id, actor, "backfill.cancelled", backfill_id, runs=stopped)
        notify_ready(connection)
    return {"id": backfill_id, "changed": not was_final or stopped > 0, "cancelled": stopped}


def _lock(connection: Connection, backfill_id: str, workspace: str) -> Any:
    key = {"workspace": workspace_id(connection, workspace), "id": parse_backfill_id(backfill_id)}
    row = connection.execute(_LOCK, key).one_or_none()
    if row is None:
        raise no_backfill(backfill_id)
    return row


def _stop(connection: Connection, backfill: uuid.UUID, *, running: bool) -> int:
    """Cancel what is open of it; a run that a scheduler has just started is running."""
    locked = lock_runs(connection, set(connection.scalars(_OPEN, {"id": backfill})))
    wanted = {RunState.QUEUED, RunState.RUNNING} if running else {RunState.QUEUED}
    found = [run for run in locked.values() if run.state in wanted and not run.stopping]
    if found:
        stop_runs(connection, found, timed_out=False)
    return len(found)

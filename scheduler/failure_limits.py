"""`max_consecutive_failures`: pauses a workflow whose runs fail one after the other, and says so."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.db.arrays import ints
from agentflow.db.notify import notify_workflows
from agentflow.states import RunState, TriggeredBy
from scheduler.ends import EndedRun

_LIMITED = text(
    "SELECT id FROM workflow WHERE id = ANY(CAST(:ids AS bigint[])) AND max_consecutive_failures IS NOT NULL"
)
_LOCK = text("""
SELECT name, workspace_id, max_consecutive_failures AS limit, resumed_at FROM workflow
WHERE id = :workflow AND NOT paused AND max_consecutive_failures IS NOT NULL FOR NO KEY UPDATE
""")
#: Cancelled runs say nothing, and those of backfills are history. Those from before somebody unpaused it do not count
#: again.
_LATEST = text("""
SELECT state FROM run
WHERE workflow_id = :workflow AND state IN ('success', 'failed') AND parent_run_id IS NULL AND NOT hidden
  AND triggered_by <> 'backfill'
  AND (CAST(:since AS timestamptz) IS NULL OR created_at > :since)
ORDER BY id DESC LIMIT :limit
""")
_PAUSE = text("""
UPDATE workflow SET paused = true, pause_reason = :reason, updated_at = clock_timestamp() WHERE id = :workflow
""")


class FailureLimits:
    """Counts failed runs in a row."""

    def wants(self, connection: Connection, ended: Sequence[EndedRun]) -> Collection[uuid.UUID]:
        """Failed runs of workflows with a limit."""
        failed = [run for run in ended if run.state is RunState.FAILED and _counts(run)]
        if not failed:
            return []
        limited = set(connection.scalars(_LIMITED, {"ids": ints({run.workflow_id for run in failed})}))
        return [run.id for run in failed if run.workflow_id in limited]

    def handle(self, connection: Connection, run: EndedRun) -> None:
        """Pause its workflow if this was one failure too many."""
        workflow = connection.execute(_LOCK, {"workflow": run.workflow_id}).one_or_none()
        if workflow is None:
            return
        states = list(
            connection.scalars(
                _LATEST, {"workflow": run.workflow_id, "since": workflow.resumed_at, "limit": workflow.limit}
            )
        )
        if len(states) < workflow.limit or RunState.SUCCESS in states:
            return
        reason = f"{workflow.limit} {'run has' if workflow.limit == 1 else 'runs in a row have'} failed, the last one {run.id}"
        connection.execute(_PAUSE, {"workflow": run.workflow_id, "reason": reason})
        audit(connection, workflow.workspace_id, "system", "workflow.paused", workflow.name, reason=reason)
        notify_workflows(connection, workflow.workspace_id, [workflow.name])


def _counts(run: EndedRun) -> bool:
    return run.parent_run_id is None and not run.hidden and run.triggered_by is not TriggeredBy.BACKFILL

"""Deleting runs with all that belongs to them."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.arrays import uuids
from agentflow.db.models.history import PARTITIONED
from agentflow.db.notify import GONE, notify_live
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.trash import discard_objects
from agentflow.errors import Conflict
from agentflow.objects.names import run_prefix
from agentflow.runs.ids import find_run, no_run

#: The run itself and its sub-runs, in any depth.
_FAMILY = text("""
WITH RECURSIVE f AS (
  SELECT CAST(:run AS uuid) AS id
  UNION SELECT r.id FROM f JOIN run r ON r.parent_run_id = f.id WHERE r.parent_run_id IS NOT NULL
) SELECT id FROM f
""")
#: The run goes last: the rest is visible to the webserver as long as its run is.
_DELETE = [
    text(f"DELETE FROM {table} WHERE {'id' if table == 'run' else 'run_id'} = ANY(CAST(:ids AS uuid[]))")  # noqa: S608 - names of ours
    for table in (*reversed(PARTITIONED[1:]), "run_end", "manual_date", "run")
]


def delete_run(
    connection: Connection, run_id: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Delete an ended run with its sub-runs, attempts, outputs, logs and history; its logical date is free again.

    Returns:
        `{id, changed}`.

    Raises:
        NotFound: No such run.
        Conflict: It, or a sub-run of it, has not ended; or it is a sub-run of a run that has not.
    """
    key = find_run(connection, run_id, workspace=workspace)
    family: list[uuid.UUID] = list(connection.scalars(_FAMILY, {"run": key}))
    runs = lock_runs(connection, family)
    if key not in runs:
        raise no_run(run_id)
    unfinished = [run for run in runs.values() if not run.is_final]
    if unfinished:
        what = "The run" if unfinished[0].id == key else f"Its sub-run {unfinished[0].id}"
        raise Conflict(f"{what} has not ended.", hint=f"cancel it first: agentflow runs cancel {run_id}")
    discard_objects(connection, [run_prefix(run_id) for run_id in runs])  # first: only who sees a run may discard it
    for statement in _DELETE:
        connection.execute(statement, {"ids": uuids(runs)})
    audit(connection, runs[key].workspace_id, actor, "run.deleted", run_id)
    notify_live(connection, runs[key].workspace_id, dict.fromkeys(runs, GONE))
    return {"id": run_id, "changed": True}

"""Creating runs. A run is one row until a scheduler starts it."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow import correlation
from agentflow.catalog import audit, find_workflow
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.notify import notify_live, notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.errors import Conflict, NotFound
from agentflow.ids import uuid7
from agentflow.runs.ids import find_run, no_run
from agentflow.runs.show import show_run_row
from agentflow.spec import check_params
from agentflow.states import TriggeredBy

_INSERT = text("""
INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, trigger_id, logical_date, params, note,
  actor, request_id, hidden, reserved_for, chain_depth, created_at)
VALUES (:id, :workspace, :workflow, :version, 'queued', :triggered_by, :trigger, :logical_date, CAST(:params AS json),
  :note, :actor, :request_id, :hidden, CAST(:reserved_for AS uuid), :chain_depth, :now)
""")
_MANUAL_DATE = text("""
INSERT INTO manual_date (workflow_id, logical_date, run_id) VALUES (:workflow, :logical_date, :run)
ON CONFLICT DO NOTHING
""")
_SPEC = text("SELECT spec FROM workflow_version WHERE id = :version")


def insert_run(
    connection: Connection,
    *,
    workspace: int,
    workflow: int,
    version: int,
    params: dict[str, Any],
    triggered_by: TriggeredBy,
    now: datetime,
    actor: str,
    trigger: int | None = None,
    logical_date: datetime | None = None,
    note: str = "",
    reserved_for: uuid.UUID | None = None,
    chain_depth: int = 0,
) -> uuid.UUID:
    """Write the row of a queued run. A reserved run (`run FILE`) is hidden from lists."""
    run_id = uuid7(now)
    connection.execute(
        _INSERT,
        {
            "id": run_id,
            "workspace": workspace,
            "workflow": workflow,
            "version": version,
            "triggered_by": triggered_by.value,
            "trigger": trigger,
            "logical_date": logical_date,
            "params": json.dumps(params, ensure_ascii=False),
            "note": note,
            "actor": actor,
            "request_id": correlation.current(),
            "hidden": reserved_for is not None,
            "reserved_for": reserved_for,
            "chain_depth": chain_depth,
            "now": now,
        },
    )
    return run_id


def create_run(
    connection: Connection,
    name: str,
    params: dict[str, Any],
    *,
    triggered_by: TriggeredBy,
    actor: str,
    logical_date: datetime | None = None,
    note: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Queue a run of the published version. With `paused: true` in the answer it stays queued until unpaused.

    Raises:
        NotFound: No such workflow, or it has no version.
        ParamError: Params are unknown, missing or of the wrong type.
        Conflict: There is a run with this logical date already.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="keep")
    if workflow.published_version_id is None:
        raise NotFound(f"The workflow {name!r} has no version.", hint="apply its file again")
    return _create(
        connection,
        workflow_id=workflow.id,
        workspace_id=workflow.workspace_id,
        name=name,
        version=workflow.published_version_id,
        params=params,
        triggered_by=triggered_by,
        actor=actor,
        logical_date=logical_date,
        note=note or "",
    ) | {"paused": workflow.paused}


def _create(
    connection: Connection,
    *,
    workflow_id: int,
    workspace_id: int,
    name: str,
    version: int,
    params: dict[str, Any],
    triggered_by: TriggeredBy,
    actor: str,
    logical_date: datetime | None = None,
    note: str = "",
) -> dict[str, Any]:
    schema = (connection.scalar(_SPEC, {"version": version}) or {}).get("params", {})
    now = database_now(connection)
    run_id = insert_run(
        connection,
        workspace=workspace_id,
        workflow=workflow_id,
        version=version,
        params=check_params(schema, params),
        triggered_by=triggered_by,
        now=now,
        actor=actor,
        logical_date=logical_date,
        note=note,
    )
    if logical_date is not None:
        made = connection.execute(_MANUAL_DATE, {"workflow": workflow_id, "logical_date": logical_date, "run": run_id})
        if made.rowcount == 0:
            raise Conflict(
                f"The workflow {name!r} has a run for {logical_date.isoformat()} already.",
                hint="`agentflow runs list` shows it; clear that run to run it again",
            )
    audit(connection, workspace_id, actor, "run.created", str(run_id), workflow=name)
    notify_ready(connection)
    notify_live(connection, workspace_id, {run_id: 0})
    return show_run_row(connection, run_id)


_SOURCE_RUN = text("""
SELECT r.workspace_id, r.workflow_id, r.version_id, r.params, w.name, w.source, w.paused, w.published_version_id
FROM run r JOIN workflow w ON w.id = r.workflow_id WHERE r.id = :id FOR KEY SHARE OF w
""")


def rerun(
    connection: Connection,
    run_id: str,
    *,
    newest_version: bool = False,
    triggered_by: TriggeredBy = TriggeredBy.CLI,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """A new run with the params of an earlier one, of its version or of the newest.

    Raises:
        NotFound: No such run.
        ParamError: The params do not fit the newest version.
        Conflict: It was a `run FILE`, which only that command can start.
    """
    row = connection.execute(_SOURCE_RUN, {"id": find_run(connection, run_id, workspace=workspace)}).one_or_none()
    if row is None:
        raise no_run(run_id)
    if row.source == "adhoc":
        raise Conflict(f"The run {run_id} came from a file.", hint="use `agentflow run FILE` again")
    made = _create(
        connection,
        workflow_id=row.workflow_id,
        workspace_id=row.workspace_id,
        name=row.name,
        version=row.published_version_id if newest_version else row.version_id,
        params=row.params,
        triggered_by=triggered_by,
        actor=actor,
        note=f"rerun of {run_id}",
    )
    return made | {"paused": row.paused}

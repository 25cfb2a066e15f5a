"""Creating runs. A run is one row until a scheduler starts it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow import correlation
from agentflow.catalog import audit, find_workflow
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.arrays import ints, times, uuids, words
from agentflow.db.notify import notify_live, notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.errors import Conflict, NotFound
from agentflow.ids import uuid7
from agentflow.runs.ids import find_run, no_run
from agentflow.runs.show import show_run_row
from agentflow.spec import check_params
from agentflow.states import TriggeredBy

QUEUE_MAX = 100  #: Queued runs of a workflow above which its triggers create no more (SEMANTICS section 1).

_INSERT = text("""
INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, trigger_id, logical_date, params, note,
  actor, request_id, hidden, reserved_for, chain_depth, backfill_id, created_at)
SELECT n.id, n.workspace, n.workflow, n.version, 'queued', n.triggered_by, n.trigger, n.logical_date,
  CAST(n.params AS json), n.note, n.actor, CAST(:request_id AS text), n.reserved_for IS NOT NULL, n.reserved_for,
  n.chain_depth, n.backfill, :now
FROM unnest(CAST(:ids AS uuid[]), CAST(:workspaces AS int[]), CAST(:workflows AS bigint[]), CAST(:versions AS bigint[]),
  CAST(:triggered_by AS text[]), CAST(:triggers AS bigint[]), CAST(:dates AS timestamptz[]), CAST(:params AS text[]),
  CAST(:notes AS text[]), CAST(:actors AS text[]), CAST(:reserved_for AS uuid[]), CAST(:depths AS smallint[]),
  CAST(:backfills AS uuid[]))
  AS n(id, workspace, workflow, version, triggered_by, trigger, logical_date, params, note, actor, reserved_for,
    chain_depth, backfill)
""")
_MANUAL_DATE = text("""
INSERT INTO manual_date (workflow_id, logical_date, run_id) VALUES (:workflow, :logical_date, :run)
ON CONFLICT DO NOTHING
""")
#: Whoever made it: the trigger's own run of the date, or a backfill's.
_HAS_DATE = text("""
SELECT EXISTS (SELECT FROM run WHERE workflow_id = :workflow AND logical_date = :logical_date AND id <> :run
  AND parent_run_id IS NULL AND NOT hidden)
""")
_SPEC = text("SELECT spec FROM workflow_version WHERE id = :version")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be queued."""

    id: uuid.UUID
    workspace: int
    workflow: int
    version: int
    params: Mapping[str, Any]
    triggered_by: TriggeredBy
    actor: str
    trigger: int | None = None
    logical_date: datetime | None = None
    note: str = ""
    reserved_for: uuid.UUID | None = None  #: `run FILE`; such a run is hidden from lists.
    chain_depth: int = 0
    backfill: uuid.UUID | None = None


def insert_runs(connection: Connection, runs: Sequence[NewRun], now: datetime) -> None:
    """Write the rows of queued runs, in one statement."""
    connection.execute(
        _INSERT,
        {
            "ids": uuids(run.id for run in runs),
            "workspaces": ints(run.workspace for run in runs),
            "workflows": ints(run.workflow for run in runs),
            "versions": ints(run.version for run in runs),
            "triggered_by": words(run.triggered_by.value for run in runs),
            "triggers": ints(run.trigger for run in runs),
            "dates": times(run.logical_date for run in runs),
            "params": [json.dumps(run.params, ensure_ascii=False) for run in runs],
            "notes": [run.note for run in runs],
            "actors": [run.actor for run in runs],
            "reserved_for": uuids(run.reserved_for for run in runs),
            "depths": ints(run.chain_depth for run in runs),
            "backfills": uuids(run.backfill for run in runs),
            "request_id": correlation.current(),
            "now": now,
        },
    )


def announce_runs(connection: Connection, runs: Sequence[NewRun]) -> None:
    """Tell who watches lists of runs, when this transaction commits."""
    by_workspace: dict[int, dict[uuid.UUID, int]] = {}
    for run in runs:
        by_workspace.setdefault(run.workspace, {})[run.id] = 0
    for workspace, positions in by_workspace.items():
        notify_live(connection, workspace, positions)


def insert_run(connection: Connection, *, now: datetime, **fields: Any) -> uuid.UUID:
    """Write the row of one queued run, with the fields of NewRun; its id."""
    run = NewRun(uuid7(now), **fields)
    insert_runs(connection, [run], now)
    return run.id


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
        key = {"workflow": workflow_id, "logical_date": logical_date}
        made = connection.execute(_MANUAL_DATE, key | {"run": run_id})
        if made.rowcount == 0 or connection.scalar(_HAS_DATE, key | {"run": run_id}):
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

"""Pausing and deleting workflows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.catalog.triggers import restart_triggers
from agentflow.db.models.history import PARTITIONED
from agentflow.db.notify import notify_ready, notify_workflows
from agentflow.db.queries.trash import discard_objects
from agentflow.errors import Conflict, OwnedByFile, StaleVersion
from agentflow.objects.names import run_prefix

_PAUSE = text("""
UPDATE workflow SET paused = :paused, pause_reason = NULL, updated_at = clock_timestamp(),
  resumed_at = CASE WHEN :paused THEN resumed_at ELSE clock_timestamp() END
WHERE id = :id
""")
_TAG = text("UPDATE workflow SET tags = CAST(:tags AS text[]), updated_at = clock_timestamp() WHERE id = :id")
_OPEN_RUNS = text("SELECT count(*) FROM run WHERE workflow_id = :id AND state IN ('queued', 'running')")
_BACKFILLED = text("SELECT count(*) FROM backfill WHERE workflow_id = :id AND state IN ('running', 'paused')")
_WITH_OBJECTS = text("""
SELECT DISTINCT o.run_id FROM run r JOIN output o ON o.run_id = r.id WHERE r.workflow_id = :id AND o.ref IS NOT NULL
""")

_DELETE_HISTORY = [
    text(f"DELETE FROM {table} WHERE run_id IN (SELECT id FROM run WHERE workflow_id = :id)")  # noqa: S608 - names of ours
    for table in PARTITIONED
    if table != "run"
] + [text("DELETE FROM run WHERE workflow_id = :id")]


def require_version(connection: Connection, name: str, version: int, *, workspace: str = DEFAULT_WORKSPACE) -> None:
    """Let a change pass only while this is the published version; nobody publishes before the transaction ends.

    Raises:
        NotFound: No such workflow.
        StaleVersion: Something else is published.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="change")
    if workflow.published_version != version:
        raise StaleVersion(name, base=version, current=workflow.published_version)


def set_paused(
    connection: Connection, name: str, paused: bool, actor: str, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Pause or unpause; fires missed meanwhile are not made up. Returns `{name, changed}`."""
    workflow = find_workflow(connection, name, workspace=workspace, lock="change")
    if workflow.paused == paused:
        return {"name": name, "changed": False}
    connection.execute(_PAUSE, {"id": workflow.id, "paused": paused})
    if not paused:
        restart_triggers(connection, workflow.id)
    audit(connection, workflow.workspace_id, actor, "workflow.paused" if paused else "workflow.unpaused", name)
    notify_ready(connection)
    notify_workflows(connection, workflow.workspace_id, [name])
    return {"name": name, "changed": True}


def set_tags(
    connection: Connection, name: str, tags: Sequence[str], *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Replace the tags, which are no part of a version's content. Returns `{name, changed}`.

    Raises:
        NotFound: No such workflow.
        OwnedByFile: A file of the DAG folder says what they are.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="change")
    if workflow.source == "file":
        raise OwnedByFile(f"The workflow {name!r} belongs to the file {workflow.source_path}.", hint="edit that file")
    if workflow.tags == list(tags):
        return {"name": name, "changed": False}
    connection.execute(_TAG, {"id": workflow.id, "tags": list(tags)})
    audit(connection, workflow.workspace_id, actor, "workflow.tagged", name, tags=list(tags))
    notify_workflows(connection, workflow.workspace_id, [name])
    return {"name": name, "changed": True}


def delete_workflow(
    connection: Connection, name: str, actor: str, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Delete a workflow with its versions, triggers and history.

    Raises:
        Conflict: Runs of it are open.
        OwnedByFile: Its file is still in the DAG folder: the next sync would bring it back.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="delete")
    if workflow.source == "file" and not workflow.missing:
        raise OwnedByFile(
            f"The workflow {name!r} belongs to the file {workflow.source_path}.", hint="delete the file first"
        )
    open_runs = connection.scalar(_OPEN_RUNS, {"id": workflow.id})
    if open_runs:
        raise Conflict(f"{open_runs} runs of {name!r} are open.", hint="cancel them first: agentflow runs cancel ID")
    if connection.scalar(_BACKFILLED, {"id": workflow.id}):
        raise Conflict(f"A backfill of {name!r} is under way.", hint="cancel it first: agentflow backfill cancel ID")
    discard_objects(connection, [run_prefix(run) for run in connection.scalars(_WITH_OBJECTS, {"id": workflow.id})])
    for statement in _DELETE_HISTORY:
        connection.execute(statement, {"id": workflow.id})
    # version_node and dispatch_group reference each other's parents: nodes go first.
    connection.execute(
        text("DELETE FROM version_node WHERE version_id IN (SELECT id FROM workflow_version WHERE workflow_id = :id)"),
        {"id": workflow.id},
    )
    connection.execute(text("DELETE FROM workflow WHERE id = :id"), {"id": workflow.id})
    audit(connection, workflow.workspace_id, actor, "workflow.deleted", name)
    notify_workflows(connection, workflow.workspace_id, [name], with_runs=True)
    return {"name": name, "changed": True}

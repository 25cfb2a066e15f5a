"""Reading workflows: list, show, export, import errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow, workspace_id
from agentflow.catalog.names import BY_NAME, list_named
from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.models import Workflow
from agentflow.errors import NotFound

CURSOR = "workflows"

_LIST = text("""
SELECT w.name, w.title, w.published_version AS version, w.source, w.source_path, w.paused, w.pause_reason, w.missing, w.tags,
  w.max_active_runs, w.concurrency,
  (SELECT min(t.next_fire_at) FROM trigger t WHERE t.workflow_id = w.id AND t.active AND NOT t.paused) AS next_fire,
  latest.id AS run_id, latest.state AS run_state, latest.created_at AS run_created_at
FROM workflow w
LEFT JOIN LATERAL (
  SELECT r.id, r.state, r.created_at FROM run r WHERE r.workflow_id = w.id ORDER BY r.id DESC LIMIT 1) AS latest ON true
WHERE w.workspace_id = :workspace AND w.source <> 'adhoc' AND (CAST(:name AS text) IS NULL OR w.name = :name)
  AND (CAST(:after AS text) IS NULL OR w.name > :after)
  AND (CAST(:search AS text) IS NULL OR strpos(lower(concat_ws(' ', w.name, w.title, w.description)), lower(:search)) > 0)
  AND w.tags @> CAST(:tags AS text[]) AND (CAST(:paused AS boolean) IS NULL OR w.paused = :paused)
  AND (CAST(:source AS text) IS NULL OR w.source = :source)
ORDER BY w.name LIMIT :limit
""")
_ALL: dict[str, Any] = {
    "name": None,
    "after": None,
    "search": None,
    "tags": [],
    "paused": None,
    "source": None,
    "limit": None,
}
_SPEC = text("""
SELECT v.spec FROM workflow_version v WHERE v.workflow_id = :workflow AND v.version = :version
""")
_IMPORT_ERRORS = text(f"""
SELECT * FROM (
  SELECT path AS name, message, line, traceback, seen_at FROM source_file
  WHERE workspace_id = :workspace AND message IS NOT NULL) AS files
WHERE true {BY_NAME}
""")  # noqa: S608 - text of ours


def _workflow_document(row: Any) -> dict[str, Any]:
    """The workflow object of SEMANTICS section 8."""
    latest = None
    if row.run_id is not None:
        latest = {"id": str(row.run_id), "state": row.run_state, "created_at": iso(row.run_created_at)}
    return {
        "name": row.name,
        "title": row.title or None,
        "version": row.version,
        "source": row.source,
        "source_path": row.source_path,
        "paused": row.paused,
        "pause_reason": row.pause_reason,
        "missing": row.missing,
        "tags": row.tags,
        # A paused or missing workflow does not fire, whatever its triggers' clocks say.
        "next_fire": None if row.paused or row.missing else iso(row.next_fire),
        "latest_run": latest,
    }


def list_workflows(
    connection: Connection,
    *,
    search: str | None = None,
    tags: Sequence[str] = (),
    paused: bool | None = None,
    source: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of published workflows by name, and the cursor of the next page (None at the end).

    Args:
        connection: In a transaction.
        search: Part of the name, title or description, in any case.
        tags: All of these.
        paused: Only paused ones, or only others.
        source: `file` or `api`.
        limit: At most so many; None: all.
        cursor: `next_cursor` of the page before.
        workspace: Whose.

    Raises:
        UsageError: The cursor is not one of ours.
    """
    asked = {
        "workspace": workspace_id(connection, workspace),
        "after": read_cursor(CURSOR, cursor, str) if cursor is not None else None,
        "search": search,
        "tags": list(tags),
        "paused": paused,
        "source": source,
        "limit": None if limit is None else limit + 1,
    }
    rows = connection.execute(_LIST, _ALL | asked).all()
    more = limit is not None and len(rows) > limit
    following = write_cursor(CURSOR, rows[limit - 1].name) if limit is not None and more else None
    return [_workflow_document(row) for row in rows[:limit]], following


def show_workflow(connection: Connection, name: str, *, workspace: str = DEFAULT_WORKSPACE) -> dict[str, Any]:
    """One workflow with its published spec under `spec`."""
    workflow = find_workflow(connection, name, workspace=workspace)
    row = connection.execute(_LIST, _ALL | {"workspace": workflow.workspace_id, "name": name}).one()
    return _workflow_document(row) | {"spec": export_spec(connection, name, workspace=workspace)}


def export_spec(
    connection: Connection, name: str, version: int | None = None, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """The stored document of a version (default: the published one).

    Raises:
        NotFound: No such workflow or version.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    wanted = version or workflow.published_version
    spec = connection.scalar(_SPEC, {"workflow": workflow.id, "version": wanted})
    if not isinstance(spec, dict):
        raise NotFound(
            f"The workflow {name!r} has no version {wanted}.", hint=f"versions 1 to {workflow.published_version} exist"
        )
    return with_words(spec, workflow)


def with_words(spec: Mapping[str, Any], workflow: Workflow) -> dict[str, Any]:
    """A stored spec with the workflow's title, description and tags: not a version's content, so the newest hold."""
    words = {"title": workflow.title, "description": workflow.description, "tags": workflow.tags}
    content = {key: value for key, value in spec.items() if key not in words}
    return content | {key: value for key, value in words.items() if value}


def import_errors(
    connection: Connection, *, limit: int | None = None, cursor: str | None = None, workspace: str = DEFAULT_WORKSPACE
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of files of the DAG folder that could not be loaded; see `list_named`."""
    rows, following = list_named(
        connection, _IMPORT_ERRORS, "import-errors", name=None, limit=limit, cursor=cursor, workspace=workspace
    )
    return [
        {"file": r.name, "message": r.message, "line": r.line, "traceback": r.traceback, "at": iso(r.seen_at)}
        for r in rows
    ], following

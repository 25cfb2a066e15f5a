"""Versions of workflows: listed, shown, compared."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.listing import with_words
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.clock import iso
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.db.kept import Kept
from agentflow.db.models import Workflow
from agentflow.errors import NotFound
from agentflow.spec.compare import compare

CURSOR = "versions"
#: Bytes of the specs that are kept in memory, which never change: those of their JSON, and what Python adds to a node.
_KEPT, _NODE = 64 * 2**20, 2**10
_AFTER_ALL = 2**31 - 1

_LIST = text("""
SELECT version, content_hash, bundle_hash, message, created_at, created_by FROM workflow_version
WHERE workflow_id = :workflow AND version < :before ORDER BY version DESC LIMIT :limit
""")
_ONE = text("""
SELECT id, version, content_hash, bundle_hash, message, created_at, created_by FROM workflow_version
WHERE workflow_id = :workflow AND version = :version
""")
_SPEC = text("SELECT spec FROM workflow_version WHERE id = :id")

_specs: Kept[tuple[int], dict[str, Any]] = Kept(
    "spec", most=_KEPT, weigh=lambda spec: _NODE * (1 + len(spec["nodes"])), sized=True
)


def spec_of(connection: Connection, workspace_id: int, version_id: int) -> dict[str, Any]:
    """The spec of a version of that workspace, which the caller must not change; read once."""

    def read() -> dict[str, Any]:
        found = connection.scalar(_SPEC, {"id": version_id})
        assert isinstance(found, dict)
        return found

    return _specs.one(connection, workspace_id, (version_id,), read)


def list_versions(
    connection: Connection,
    name: str,
    *,
    limit: int = 25,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of a workflow's versions, the newest first, and the cursor of the next page.

    Raises:
        NotFound: No such workflow.
        UsageError: The cursor is not one of this list.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    before = _AFTER_ALL if cursor is None else min(read_cursor(CURSOR, cursor, big_int), _AFTER_ALL)
    rows = connection.execute(_LIST, {"workflow": workflow.id, "before": before, "limit": limit + 1}).all()
    following = write_cursor(CURSOR, rows[limit - 1].version) if len(rows) > limit else None
    return [_document(row, workflow) for row in rows[:limit]], following


def show_version(
    connection: Connection, name: str, version: int, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """One version with its spec as it was stored: it never changes.

    Raises:
        NotFound: No such workflow or version.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    row = _find(connection, workflow, version)
    return _document(row, workflow) | {"spec": spec_of(connection, workflow.workspace_id, row.id)}


def compare_versions(
    connection: Connection, name: str, before: int, after: int, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """What differs between two versions of a workflow; see `agentflow.spec.compare`.

    Raises:
        NotFound: No such workflow or version.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    ids = [_find(connection, workflow, number).id for number in (before, after)]
    old, new = (spec_of(connection, workflow.workspace_id, number) for number in ids)
    return {"from": before, "to": after} | compare(old, new)


def published_spec(connection: Connection, workflow: Workflow) -> dict[str, Any]:
    """The published spec with today's title, description and tags.

    Raises:
        NotFound: Nothing is published.
    """
    if workflow.published_version_id is None:
        raise NotFound(f"The workflow {workflow.name!r} has no version.")
    return with_words(spec_of(connection, workflow.workspace_id, workflow.published_version_id), workflow)


def _find(connection: Connection, workflow: Workflow, version: int) -> Any:
    row = connection.execute(_ONE, {"workflow": workflow.id, "version": version}).one_or_none()
    if row is None:
        raise NotFound(
            f"The workflow {workflow.name!r} has no version {version}.",
            hint=f"versions 1 to {workflow.published_version} exist",
        )
    return row


def _document(row: Any, workflow: Workflow) -> dict[str, Any]:
    return {
        "version": row.version,
        "published": row.version == workflow.published_version,
        "message": row.message or None,
        "content_hash": row.content_hash,
        "bundle_hash": row.bundle_hash,
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
    }

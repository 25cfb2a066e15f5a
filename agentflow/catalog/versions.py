"""Versions of workflows: listed, shown, compared."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, text

from agentflow.catalog.listing import with_words
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.clock import iso
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.db.models import Workflow
from agentflow.errors import NotFound
from agentflow.spec.compare import compare

CURSOR = "versions"
_KEPT = 128  #: Specs kept in memory by process and database; they never change.
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

_caches: WeakKeyDictionary[Engine, OrderedDict[int, dict[str, Any]]] = WeakKeyDictionary()
_lock = Lock()


def spec_of(connection: Connection, version_id: int) -> dict[str, Any]:
    """The spec of a version, which the caller must not change; from memory when it was read before."""
    with _lock:
        cache = _caches.setdefault(connection.engine, OrderedDict())
        if version_id in cache:
            cache.move_to_end(version_id)
            return cache[version_id]
    found = connection.scalar(_SPEC, {"id": version_id})
    assert isinstance(found, dict)
    with _lock:
        cache[version_id] = found
        while len(cache) > _KEPT:
            cache.popitem(last=False)
    return found


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
    return _document(row, workflow) | {"spec": spec_of(connection, row.id)}


def compare_versions(
    connection: Connection, name: str, before: int, after: int, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """What differs between two versions of a workflow; see `agentflow.spec.compare`.

    Raises:
        NotFound: No such workflow or version.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    old, new = (spec_of(connection, _find(connection, workflow, number).id) for number in (before, after))
    return {"from": before, "to": after} | compare(old, new)


def published_spec(connection: Connection, workflow: Workflow) -> dict[str, Any]:
    """The published spec with today's title, description and tags.

    Raises:
        NotFound: Nothing is published.
    """
    if workflow.published_version_id is None:
        raise NotFound(f"The workflow {workflow.name!r} has no version.")
    return with_words(spec_of(connection, workflow.published_version_id), workflow)


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

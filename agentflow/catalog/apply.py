"""Storing a spec as a version: idempotent by content (SEMANTICS section 6)."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from agentflow.bundles import Bundle
from agentflow.catalog.audit import audit
from agentflow.catalog.graph import store_graph
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, workspace_id
from agentflow.catalog.triggers import restart_triggers, sync_triggers
from agentflow.db.models import Bundle as BundleRow
from agentflow.db.notify import notify_ready, notify_workflows
from agentflow.durations import parse_duration
from agentflow.errors import Conflict, OwnedByFile, StaleVersion
from agentflow.nodes import registry
from agentflow.spec import WorkflowSpec, content_hash, to_document

_FIND = text("""
SELECT w.id, w.source, w.source_path, w.missing, w.published_version, v.content_hash, v.bundle_hash
FROM workflow w LEFT JOIN workflow_version v ON v.id = w.published_version_id
WHERE w.workspace_id = :workspace AND w.name = :name AND (w.source = 'adhoc') = :adhoc
FOR NO KEY UPDATE OF w
""")
_CREATE = text("""
INSERT INTO workflow (workspace_id, name, source, source_path) VALUES (:workspace, :name, :source, :path)
ON CONFLICT DO NOTHING
""")
_INSERT_VERSION = text("""
INSERT INTO workflow_version (workflow_id, version, spec, content_hash, bundle_hash, message, timeout, created_by)
VALUES (:workflow, :version, CAST(:spec AS json), :content_hash, :bundle_hash, :message, :timeout, :actor) RETURNING id
""")
_SAME_VERSION = text("""
SELECT id, version FROM workflow_version
WHERE workflow_id = :workflow AND content_hash = :content_hash AND bundle_hash IS NOT DISTINCT FROM :bundle_hash
ORDER BY version DESC LIMIT 1
""")
_PUBLISH = text("""
UPDATE workflow SET published_version_id = :version_id, published_version = :version, title = :title,
  description = :description, tags = :tags, max_active_runs = :max_active_runs, concurrency = :concurrency,
  depends_on_past = :depends_on_past, max_consecutive_failures = :max_consecutive_failures,
  source_path = :path, missing = false, updated_at = clock_timestamp()
WHERE id = :workflow
""")
_DESCRIBE = text("""
UPDATE workflow SET title = :title, description = :description, tags = :tags, source_path = :path, missing = false,
  updated_at = clock_timestamp()
WHERE id = :workflow
  AND (title, description, tags, source_path, missing)
    IS DISTINCT FROM (:title, :description, CAST(:tags AS text[]), CAST(:path AS text), false)
""")


def apply_spec(
    connection: Connection,
    spec: WorkflowSpec,
    *,
    source: str,
    source_path: str | None = None,
    bundle: Bundle | None = None,
    keep_bundle: bool = False,
    base: int | None = None,
    create_only: bool = False,
    message: str = "",
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Create or update a workflow and publish it; the same content again changes nothing.

    Args:
        connection: The caller's transaction.
        spec: What it is to be.
        source: `file` or `api`.
        source_path: Its file, if it has one.
        bundle: The code of its nodes.
        keep_bundle: Without a bundle, keep the published version's (and its path): edits by hand change no code.
        base: The version that must be the published one.
        create_only: The name must be free.
        message: What changed, for people.
        actor: Who asks.
        workspace: Its tenant.

    Returns:
        `{name, version, changed, created}`.

    Raises:
        OwnedByFile: The name belongs to a file of the DAG folder and the caller is not that file.
        Conflict: The name belongs to another file, or to a workflow made by the API; or it is not free.
        StaleVersion: Something else than `base` is published.
        NotFound: A pool that the spec names does not exist.
    """
    owner = workspace_id(connection, workspace)
    created = _create(connection, owner, spec.name, source, source_path)
    row = connection.execute(_FIND, {"workspace": owner, "name": spec.name, "adhoc": False}).one()
    if create_only and not created:
        raise Conflict(f"There is a workflow {spec.name!r} already.", hint="change that one, or use another name")
    if keep_bundle and source_path is None:
        source_path = row.source_path
    _check_owner(spec.name, row.source, row.source_path, source, source_path, missing=row.missing)
    if base is not None and row.published_version != base:
        raise StaleVersion(spec.name, base=base, current=row.published_version)
    bundle_hash = bundle.hash if bundle else row.bundle_hash if keep_bundle and _uses_code(spec) else None
    words = {
        "workflow": row.id,
        "title": spec.title or "",
        "description": spec.description or "",
        "tags": spec.tags,
        "path": source_path,
    }
    if (row.content_hash, row.bundle_hash) == (content_hash(spec), bundle_hash):
        if connection.execute(_DESCRIBE, words).rowcount:
            notify_workflows(connection, owner, [spec.name])
        if row.missing:
            sync_triggers(connection, row.id, spec)
            restart_triggers(connection, row.id)
        return {"name": spec.name, "version": row.published_version, "changed": row.missing, "created": False}
    version_id, version = _store_version(connection, row.id, spec, bundle, bundle_hash, actor, message)
    connection.execute(
        _PUBLISH,
        words
        | {
            "version_id": version_id,
            "version": version,
            "max_active_runs": spec.max_active_runs,
            "concurrency": spec.concurrency,
            "depends_on_past": spec.depends_on_past,
            "max_consecutive_failures": spec.max_consecutive_failures,
        },
    )
    sync_triggers(connection, row.id, spec)
    if row.missing:
        restart_triggers(connection, row.id)  # fires missed while the file was gone are not made up
    action = "workflow.created" if created else "workflow.updated"
    audit(connection, owner, actor, action, spec.name, version=version, source=source)
    notify_ready(connection)
    notify_workflows(connection, owner, [spec.name])
    return {"name": spec.name, "version": version, "changed": True, "created": created}


def store_adhoc(
    connection: Connection, spec: WorkflowSpec, *, bundle: Bundle | None, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> tuple[int, int]:
    """Store a spec for `run FILE`: never published over a workflow of the same name, no triggers.

    Returns:
        Ids of the workflow and of the version.
    """
    owner = workspace_id(connection, workspace)
    _create(connection, owner, spec.name, "adhoc", None)
    row = connection.execute(_FIND, {"workspace": owner, "name": spec.name, "adhoc": True}).one()
    bundle_hash = bundle.hash if bundle else None
    same = connection.execute(
        _SAME_VERSION, {"workflow": row.id, "content_hash": content_hash(spec), "bundle_hash": bundle_hash}
    ).one_or_none()
    if same is not None:
        return row.id, same.id
    version_id, version = _store_version(connection, row.id, spec, bundle, bundle_hash, actor)
    connection.execute(
        _PUBLISH,
        {
            "workflow": row.id,
            "version_id": version_id,
            "version": version,
            "title": spec.title or "",
            "description": spec.description or "",
            "tags": spec.tags,
            "max_active_runs": spec.max_active_runs,
            "concurrency": spec.concurrency,
            "depends_on_past": spec.depends_on_past,
            "max_consecutive_failures": spec.max_consecutive_failures,
            "path": None,
        },
    )
    return row.id, version_id


def _create(connection: Connection, owner: int, name: str, source: str, path: str | None) -> bool:
    made = connection.execute(_CREATE, {"workspace": owner, "name": name, "source": source, "path": path})
    return made.rowcount == 1


def _check_owner(
    name: str, source: str, path: str | None, new_source: str, new_path: str | None, *, missing: bool
) -> None:
    if source == "file" and new_source != "file":
        raise OwnedByFile(
            f"The workflow {name!r} belongs to the file {path}.", hint="edit that file, or use another name"
        )
    if source != new_source:
        raise Conflict(
            f"The name {name!r} is taken by a workflow made with `apply` or the editor.", hint="use another name"
        )
    if new_source == "file" and path != new_path and not missing:
        raise Conflict(f"The name {name!r} is taken by the file {path}.", hint="use another name in one of the two")


def _uses_code(spec: WorkflowSpec) -> bool:
    return any(registry.uses_code(node.type) for node in spec.nodes.values())


def _store_version(
    connection: Connection,
    workflow: int,
    spec: WorkflowSpec,
    bundle: Bundle | None,
    bundle_hash: str | None,
    actor: str,
    message: str = "",
) -> tuple[int, int]:
    if bundle is not None:
        connection.execute(insert(BundleRow).values(hash=bundle.hash, data=bundle.data).on_conflict_do_nothing())
    newest = connection.scalar(
        text("SELECT coalesce(max(version), 0) FROM workflow_version WHERE workflow_id = :workflow"),
        {"workflow": workflow},
    )
    version = int(newest or 0) + 1
    version_id = connection.scalar(
        _INSERT_VERSION,
        {
            "workflow": workflow,
            "version": version,
            "spec": json.dumps(to_document(spec), ensure_ascii=False),
            "content_hash": content_hash(spec),
            "bundle_hash": bundle_hash,
            "message": message,
            "timeout": parse_duration(spec.timeout).total_seconds() if spec.timeout is not None else None,
            "actor": actor,
        },
    )
    assert isinstance(version_id, int)
    store_graph(connection, workflow, version_id, spec)
    return version_id, version

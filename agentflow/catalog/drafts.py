"""Drafts: one unpublished document per workflow, made on a base version (SEMANTICS section 6)."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.apply import apply_spec
from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.catalog.versions import published_spec
from agentflow.clock import iso
from agentflow.db.models import Workflow
from agentflow.errors import Conflict, NotFound, OwnedByFile, Problem, SpecError, StaleVersion
from agentflow.spec import WorkflowSpec, parse_document, to_document
from agentflow.spec.compare import compare

_FIND = text("""
SELECT base_version, revision, document, updated_at, updated_by FROM workflow_draft WHERE workflow_id = :workflow
""")
_SAVE = text("""
INSERT INTO workflow_draft (workflow_id, workspace_id, base_version, document, updated_by)
VALUES (:workflow, :workspace, :base, CAST(:document AS json), :actor)
ON CONFLICT (workflow_id) DO UPDATE SET base_version = excluded.base_version, document = excluded.document,
  revision = workflow_draft.revision + 1, updated_at = clock_timestamp(), updated_by = excluded.updated_by
""")
_DELETE = text("DELETE FROM workflow_draft WHERE workflow_id = :workflow")


def show_draft(connection: Connection, name: str, *, workspace: str = DEFAULT_WORKSPACE) -> dict[str, Any]:
    """The draft of a workflow: `{base_version, published_version, revision, document, updated_at, updated_by}`.

    Raises:
        NotFound: No such workflow, or it has no draft.
    """
    workflow = find_workflow(connection, name, workspace=workspace)
    return _document(workflow, _existing(connection, workflow))


def save_draft(
    connection: Connection,
    name: str,
    document: dict[str, Any],
    *,
    base_version: int,
    revision: int | None = None,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Keep a document that need not be valid yet.

    Args:
        connection: The caller's transaction.
        name: Of the workflow.
        document: What the editor holds.
        base_version: The published version that it was begun on.
        revision: Of the draft that it replaces; None replaces whatever is there.
        actor: Who asks.
        workspace: Its tenant.

    Raises:
        NotFound: No such workflow.
        OwnedByFile: A file of the DAG folder owns it.
        Conflict: Somebody else saved the draft since, or there is no such base version yet.
    """
    workflow = _editable(connection, name, workspace)
    before = connection.execute(_FIND, {"workflow": workflow.id}).one_or_none()
    if revision is not None and (before.revision if before else 0) != revision:
        who = before.updated_by if before else "somebody"
        raise Conflict("The draft was changed since.", hint=f"{who} saved or deleted it; read it again")
    if base_version > workflow.published_version:
        raise Conflict(f"There is no version {base_version} to begin on.", hint="read the workflow again")
    connection.execute(
        _SAVE,
        {
            "workflow": workflow.id,
            "workspace": workflow.workspace_id,
            "base": base_version,
            "document": json.dumps(document),
            "actor": actor,
        },
    )
    return _document(workflow, _existing(connection, workflow))


def delete_draft(connection: Connection, name: str, *, workspace: str = DEFAULT_WORKSPACE) -> None:
    """Throw the draft away.

    Raises:
        NotFound: No such workflow, or it has no draft.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="change")
    if connection.execute(_DELETE, {"workflow": workflow.id}).rowcount == 0:
        raise _no_draft(name)


def publish_draft(
    connection: Connection,
    name: str,
    *,
    message: str = "",
    base: int | None = None,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Make the draft the published version. Returns `{name, version, changed, created}`.

    Args:
        connection: In a transaction.
        name: Of the workflow.
        message: Kept with the version.
        base: The version that the caller has seen published, if it says so; the draft's own base counts in any case.
        actor: Who asks.
        workspace: Its tenant.

    Raises:
        NotFound: No such workflow, or it has no draft.
        OwnedByFile: A file of the DAG folder owns it.
        SpecError: The draft is not valid.
        StaleVersion: Something else was published since the draft was begun; the error tells the difference.
    """
    workflow = _editable(connection, name, workspace)
    row = _existing(connection, workflow)
    spec = read_named(row.document, name)
    for known in (row.base_version, base):
        if known is not None and known != workflow.published_version:
            changes = compare(published_spec(connection, workflow), to_document(spec))
            raise StaleVersion(name, base=known, current=workflow.published_version, changes=changes)
    result = apply_spec(
        connection, spec, source="api", keep_bundle=True, message=message, actor=actor, workspace=workspace
    )
    connection.execute(_DELETE, {"workflow": workflow.id})
    audit(connection, workflow.workspace_id, actor, "workflow.published", name, version=result["version"])
    return result


def read_named(document: Any, name: str) -> WorkflowSpec:
    """A document of the workflow `name`, checked.

    Raises:
        SpecError: It is not valid, or has another name.
    """
    spec = parse_document(document)
    if spec.name != name:
        message = f"is {spec.name!r}, and this is the workflow {name!r}"
        raise SpecError([Problem(message, "name", hint="the name of a workflow never changes")])
    return spec


def _editable(connection: Connection, name: str, workspace: str) -> Workflow:
    workflow = find_workflow(connection, name, workspace=workspace, lock="change")
    if workflow.source == "file":
        raise OwnedByFile(f"The workflow {name!r} belongs to the file {workflow.source_path}.", hint="edit that file")
    return workflow


def _existing(connection: Connection, workflow: Workflow) -> Row[Any]:
    row = connection.execute(_FIND, {"workflow": workflow.id}).one_or_none()
    if row is None:
        raise _no_draft(workflow.name)
    return row


def _no_draft(name: str) -> NotFound:
    return NotFound(f"The workflow {name!r} has no draft.")


def _document(workflow: Workflow, row: Row[Any]) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "base_version": row.base_version,
        "published_version": workflow.published_version,
        "revision": row.revision,
        "document": row.document,
        "updated_at": iso(row.updated_at),
        "updated_by": row.updated_by,
    }

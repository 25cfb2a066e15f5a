"""`/workflows`: definitions."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, jsonify

from agentflow import catalog
from agentflow.access import Role
from agentflow.errors import SpecError
from agentflow.spec import WorkflowSpec, parse_document, parse_text, to_document, to_yaml
from webserver.access import current_principal, requires
from webserver.api.workflows_schemas import (
    Applied,
    ExportQuery,
    Report,
    ValidateBody,
    Workflow,
    WorkflowDocument,
    WorkflowPage,
    WorkflowPatch,
    WorkflowPath,
    WorkflowQuery,
)
from webserver.database import do
from webserver.errors import Forbidden, InvalidRequest
from webserver.etags import expected_version, if_match, version_etag
from webserver.offload import offload
from webserver.pages import page
from webserver.resource import Resource

workflows = Resource("workflows", "Definitions: create, change, pause, publish, delete.")

Answered = tuple[dict[str, Any], int, dict[str, str]]


@workflows.get("/workflows", responses={200: WorkflowPage})
@requires(Role.VIEWER)
def list_workflows(query: WorkflowQuery) -> dict[str, Any]:
    """List workflows by name."""
    find = partial(
        catalog.list_workflows,
        search=query.search,
        tags=query.tag,
        paused=query.paused,
        source=query.source,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))


@workflows.post("/workflows", responses={201: Applied, 409: None})
@requires(Role.EDITOR)
def create_workflow(body: WorkflowDocument) -> Answered:
    """Create a workflow and publish its first version; 409 when the name is taken."""
    spec = offload(partial(parse_document, body.root))
    return _apply(spec, create=True)


@workflows.post("/workflows/validate", responses={200: Report})
@requires(Role.VIEWER)
def validate_workflow(body: ValidateBody) -> dict[str, Any]:
    """Check a document, or the text of a file, without storing it."""
    if (body.spec is None) == (body.text is None):
        raise InvalidRequest.at("body", "give either `spec` or `text`")
    return offload(lambda: _report(body))


@workflows.get("/workflows/<name>", responses={200: Workflow})
@requires(Role.VIEWER)
def get_workflow(path: WorkflowPath) -> Answered:
    """Show a workflow with its published spec; the ETag is the number of the published version."""
    document = do(
        lambda connection: catalog.show_workflow(connection, path.name, workspace=current_principal().workspace)
    )
    return document, 200, version_etag(document["version"])


@workflows.put("/workflows/<name>", responses={200: Applied, 201: Applied, 409: None, 412: None})
@requires(Role.EDITOR)
def put_workflow(path: WorkflowPath, body: WorkflowDocument) -> Answered:
    """Create or change a workflow and publish it; with `If-Match`, only if nobody has published since (else 412)."""
    return _apply(offload(partial(catalog.read_named, body.root, path.name)), base=expected_version())


@workflows.patch("/workflows/<name>", responses={200: Workflow, 409: None, 412: None})
@requires(Role.OPERATOR)
def patch_workflow(path: WorkflowPath, body: WorkflowPatch) -> Answered:
    """Pause or unpause a workflow (operators), or set its tags (editors); `If-Match` as for PUT."""
    principal = current_principal()
    if "tags" in body.model_fields_set and (principal.role is None or principal.role < Role.EDITOR):
        raise Forbidden("Setting tags needs the role editor.")

    def work(connection: Any) -> dict[str, Any]:
        if "tags" in body.model_fields_set:
            catalog.set_tags(
                connection, path.name, body.tags or [], actor=principal.name, workspace=principal.workspace
            )
        if "paused" in body.model_fields_set:
            catalog.set_paused(connection, path.name, body.paused, principal.name, workspace=principal.workspace)
        return catalog.show_workflow(connection, path.name, workspace=principal.workspace)

    document = do(if_match(path.name, work))
    return document, 200, version_etag(document["version"])


@workflows.delete("/workflows/<name>", responses={204: None, 409: None, 412: None})
@requires(Role.EDITOR)
def delete_workflow(path: WorkflowPath) -> tuple[str, int]:
    """Delete a workflow with its versions and history; 409 while runs of it are open, `If-Match` as for PUT."""
    principal = current_principal()
    delete = partial(catalog.delete_workflow, name=path.name, actor=principal.name, workspace=principal.workspace)
    do(if_match(path.name, delete))
    return "", 204


@workflows.get(
    "/workflows/<name>/export",
    responses={
        200: {
            "content": {
                "application/yaml": {"schema": {"type": "object"}},
                "application/json": {"schema": {"type": "object"}},
            }
        }
    },
)
@requires(Role.VIEWER)
def export_workflow(path: WorkflowPath, query: ExportQuery) -> Response:
    """The workflow as a file, ready for `agentflow apply`."""
    document = do(
        lambda connection: catalog.export_spec(
            connection, path.name, query.version, workspace=current_principal().workspace
        )
    )
    if query.format == "json":
        return jsonify(document)
    text = offload(lambda: to_yaml(parse_document(document)))
    return Response(
        text,
        content_type="application/yaml; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{path.name}.yaml"'},
    )


def _apply(spec: WorkflowSpec, *, base: int | None = None, create: bool = False) -> Answered:
    principal = current_principal()
    result = do(
        lambda connection: catalog.apply_spec(
            connection,
            spec,
            source="api",
            keep_bundle=True,
            base=base,
            create_only=create,
            actor=principal.name,
            workspace=principal.workspace,
        )
    )
    headers = version_etag(result["version"])
    if not result["created"]:
        return result, 200, headers
    return result, 201, headers | {"Location": f"/api/v1/workflows/{spec.name}"}


def _report(body: ValidateBody) -> dict[str, Any]:
    try:
        spec = parse_text(body.text, file=body.file) if body.text is not None else parse_document(body.spec)
    except SpecError as error:
        errors = [problem.as_document() for problem in error.problems]
        return {"valid": False, "name": None, "errors": errors, "spec": None}
    return {"valid": True, "name": spec.name, "errors": [], "spec": to_document(spec)}

"""`/workflows/{name}/versions`, drafts and what differs."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response

from agentflow import catalog
from agentflow.access import Role
from webserver.access import current_principal, requires
from webserver.api.workflows_schemas import (
    Applied,
    Diff,
    DiffQuery,
    Draft,
    DraftBody,
    PublishBody,
    Version,
    VersionPage,
    VersionPath,
    WorkflowPath,
)
from webserver.database import do
from webserver.etags import conditional, expected_version, if_match, version_etag
from webserver.pages import PageQuery, page
from webserver.resource import Resource

versions = Resource("versions", "Versions of workflows, and drafts of the next one.")


@versions.get("/workflows/<name>/versions", responses={200: VersionPage})
@requires(Role.VIEWER)
def list_versions(path: WorkflowPath, query: PageQuery) -> dict[str, Any]:
    """List the versions of a workflow, the newest first."""
    find = partial(
        catalog.list_versions,
        name=path.name,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))


@versions.get("/workflows/<name>/versions/<int:version>", responses={200: Version, 304: None})
@requires(Role.VIEWER)
def get_version(path: VersionPath) -> Response:
    """Show a version with its spec. Only `published` of it ever changes: ask again with the ETag."""
    document = do(
        lambda connection: catalog.show_version(
            connection, path.name, path.version, workspace=current_principal().workspace
        )
    )
    return conditional(document, f"{document['content_hash'][:32]}-{document['version']}-{document['published']:d}")


@versions.get("/workflows/<name>/diff", responses={200: Diff})
@requires(Role.VIEWER)
def diff_versions(path: WorkflowPath, query: DiffQuery) -> dict[str, Any]:
    """What differs between two versions: nodes, edges, keys."""
    return do(
        lambda connection: catalog.compare_versions(
            connection, path.name, query.from_, query.to, workspace=current_principal().workspace
        )
    )


@versions.get("/workflows/<name>/draft", responses={200: Draft})
@requires(Role.VIEWER)
def get_draft(path: WorkflowPath) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Show the draft of a workflow; the ETag is the number of the published version."""
    document = do(lambda connection: catalog.show_draft(connection, path.name, workspace=current_principal().workspace))
    return document, 200, version_etag(document["published_version"])


@versions.put("/workflows/<name>/draft", responses={200: Draft, 409: None, 412: None})
@requires(Role.EDITOR)
def put_draft(path: WorkflowPath, body: DraftBody) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Keep a draft; it need not be valid. `If-Match` as for PUT of the workflow."""
    principal = current_principal()
    save = partial(
        catalog.save_draft,
        name=path.name,
        document=body.document,
        base_version=body.base_version,
        revision=body.revision,
        actor=principal.name,
        workspace=principal.workspace,
    )
    document = do(if_match(path.name, save))
    return document, 200, version_etag(document["published_version"])


@versions.delete("/workflows/<name>/draft", responses={204: None, 412: None})
@requires(Role.EDITOR)
def delete_draft(path: WorkflowPath) -> tuple[str, int]:
    """Throw the draft away. `If-Match` as for PUT of the workflow."""
    do(if_match(path.name, partial(catalog.delete_draft, name=path.name, workspace=current_principal().workspace)))
    return "", 204


@versions.post("/workflows/<name>/publish", responses={200: Applied, 409: None, 412: None})
@requires(Role.EDITOR)
def publish_draft(path: WorkflowPath, body: PublishBody) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Publish the draft; 412 with the difference when something else was published since it was begun."""
    principal = current_principal()
    publish = partial(
        catalog.publish_draft,
        name=path.name,
        message=body.message,
        base=expected_version(),
        actor=principal.name,
        workspace=principal.workspace,
    )
    result = do(publish)
    return result, 200, version_etag(result["version"])

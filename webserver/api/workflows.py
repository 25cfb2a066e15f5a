"""`/workflows`: definitions."""

from __future__ import annotations

from typing import Any

from agentflow import catalog
from agentflow.access import Role
from webserver.access import current_principal, requires
from webserver.api.workflows_schemas import WorkflowPage, WorkflowQuery
from webserver.database import do
from webserver.pages import page
from webserver.resource import Resource

workflows = Resource("workflows", "Definitions: create, change, pause, publish, delete.")


@workflows.get("/workflows", responses={200: WorkflowPage})
@requires(Role.VIEWER)
def list_workflows(query: WorkflowQuery) -> dict[str, Any]:
    """List workflows by name."""
    return page(
        *do(
            lambda connection: catalog.list_workflows(
                connection,
                search=query.search,
                tags=query.tag,
                paused=query.paused,
                source=query.source,
                limit=query.limit,
                cursor=query.cursor,
                workspace=current_principal().workspace,
            )
        )
    )

"""`/runs`: executions."""

from __future__ import annotations

from functools import partial
from typing import Any

from agentflow import runs as use
from agentflow.access import Role
from agentflow.states import TriggeredBy
from webserver.access import current_principal, requires
from webserver.api.runs_schemas import (
    NewRun,
    NodeRunPage,
    NodeRunQuery,
    Run,
    RunBody,
    RunLogPage,
    RunLogQuery,
    RunPage,
    RunPath,
    RunPlaceQuery,
    RunQuery,
)
from webserver.api.workflows_schemas import WorkflowPath
from webserver.database import do, look_up
from webserver.idempotency import once
from webserver.pages import page
from webserver.resource import ONCE, Resource

runs = Resource("runs", "Executions of workflows.")


@runs.get("/runs", responses={200: RunPage})
@requires(Role.VIEWER)
def list_runs(query: RunQuery) -> dict[str, Any]:
    """List runs, the newest first."""
    find = partial(
        use.list_runs,
        workflow=query.workflow,
        states=query.state,
        triggered_by=query.triggered_by,
        created_from=query.created_from,
        created_to=query.created_to,
        logical_from=query.logical_from,
        logical_to=query.logical_to,
        search=query.search,
        backfill=query.backfill,
        hidden=query.hidden,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))


@runs.post("/workflows/<name>/runs", responses={201: NewRun, 409: None}, openapi_extensions={ONCE: True})
@requires(Role.OPERATOR)
def create_run(path: WorkflowPath, body: RunBody) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Start a run of the published version. With an `Idempotency-Key` at most once in 24 hours."""
    principal = current_principal()

    def work(connection: Any) -> tuple[dict[str, Any], int]:
        made = use.create_run(
            connection,
            path.name,
            body.params,
            triggered_by=TriggeredBy.API,
            logical_date=body.logical_date,
            note=body.note,
            actor=principal.name,
            workspace=principal.workspace,
        )
        return made, 201

    document, status = once(work, body.model_dump(mode="json"))
    return document, status, {"Location": f"/api/v1/runs/{document['id']}"}


@runs.get("/runs/<id>", responses={200: Run})
@requires(Role.VIEWER)
def get_run(path: RunPath, query: RunPlaceQuery) -> dict[str, Any]:
    """Show a run without its nodes, or the sub-run that an address within it leads into."""
    return look_up(
        partial(use.show_run_alone, run_id=path.id, address=query.address, workspace=current_principal().workspace)
    )


@runs.get("/runs/<id>/logs", responses={200: RunLogPage})
@requires(Role.VIEWER)
def list_run_logs(path: RunPath, query: RunLogQuery) -> dict[str, Any]:
    """Read the log of a run: of all its nodes, or of one."""
    find = partial(
        use.list_log_lines,
        run_id=path.id,
        node=query.node,
        attempt=query.attempt,
        after=query.after,
        until=query.until,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))


@runs.get("/runs/<id>/nodes", responses={200: NodeRunPage})
@requires(Role.VIEWER)
def list_node_runs(path: RunPath, query: NodeRunQuery) -> dict[str, Any]:
    """List the node runs of a run."""
    find = partial(
        use.list_nodes,
        run_id=path.id,
        node=query.node,
        states=query.state,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*look_up(find))

"""`/runs/{id}/nodes/{node}`: one node run, its attempts, logs, output, config; marking it."""

from __future__ import annotations

from functools import partial
from typing import Any

from agentflow import runs as use
from agentflow.access import Role
from webserver.access import current_principal, requires
from webserver.api.runs_schemas import (
    AttemptPage,
    AttemptPath,
    Config,
    Done,
    LogQuery,
    Logs,
    MarkBody,
    NodePath,
    NodeRun,
    Why,
)
from webserver.database import do, look_up
from webserver.pages import PageQuery, page
from webserver.resource import Resource

node_runs = Resource("node runs", "Nodes within runs: attempts, logs, outputs.")


@node_runs.get("/runs/<id>/nodes/<node>", responses={200: NodeRun})
@requires(Role.VIEWER)
def get_node_run(path: NodePath) -> dict[str, Any]:
    """Show a node run."""
    return look_up(partial(use.show_node, run_id=path.id, address=path.node, workspace=current_principal().workspace))


@node_runs.get("/runs/<id>/nodes/<node>/attempts", responses={200: AttemptPage})
@requires(Role.VIEWER)
def list_attempts(path: NodePath, query: PageQuery) -> dict[str, Any]:
    """List the attempts of a node run, the first one first."""
    find = partial(
        use.list_attempts,
        run_id=path.id,
        address=path.node,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*look_up(find))


@node_runs.get("/runs/<id>/nodes/<node>/attempts/<int:attempt>/logs", responses={200: Logs})
@requires(Role.VIEWER)
def get_logs(path: AttemptPath, query: LogQuery) -> dict[str, Any]:
    """Read lines of an attempt's log."""
    return look_up(
        partial(
            use.read_log_range,
            run_id=path.id,
            address=path.node,
            attempt=path.attempt,
            after=query.after,
            limit=query.limit,
            workspace=current_principal().workspace,
        )
    )


@node_runs.get("/runs/<id>/nodes/<node>/config", responses={200: Config})
@requires(Role.VIEWER)
def get_config(path: NodePath) -> dict[str, Any]:
    """The config of a node run, with its templates filled in as far as that can be done now."""
    asked = do(partial(use.read_config, run_id=path.id, address=path.node, workspace=current_principal().workspace))
    return use.render_config(asked)


@node_runs.get("/runs/<id>/nodes/<node>/why", responses={200: Why})
@requires(Role.VIEWER)
def why_not_running(path: NodePath) -> dict[str, Any]:
    """Why a node run is not running, and what to do about it."""
    return do(partial(use.why, run_id=path.id, address=path.node, workspace=current_principal().workspace))


@node_runs.post("/runs/<id>/nodes/<node>/mark", responses={200: Done, 409: None})
@requires(Role.OPERATOR)
def mark_node_run(path: NodePath, body: MarkBody) -> dict[str, Any]:
    """Set the state of a node run by hand; its downstreams go on accordingly."""
    principal = current_principal()
    return do(
        partial(
            use.mark_node,
            run_id=path.id,
            node=path.node,
            state=body.state,
            actor=principal.name,
            workspace=principal.workspace,
        )
    )

"""What people do to runs: cancel, clear, rerun, note, delete; one by one or many at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection

from agentflow import runs as use
from agentflow.access import Principal, Role
from agentflow.errors import AgentFlowError
from agentflow.states import TriggeredBy
from webserver.access import current_principal, requires
from webserver.api.runs_schemas import (
    BulkAnswer,
    BulkBody,
    ClearBody,
    Cleared,
    Done,
    NewRun,
    NoteBody,
    RerunBody,
    RunPath,
)
from webserver.database import do
from webserver.problems import PREFIX, status_of
from webserver.resource import Resource

run_actions = Resource("runs", "Executions of workflows.", part="actions")

#: Acts on one run in a transaction.
Act = Callable[[Connection, str], dict[str, Any]]


def _as(principal: Principal) -> dict[str, Any]:
    return {"actor": principal.name, "workspace": principal.workspace}


def _clear(body: ClearBody) -> Act:
    return partial(use.clear_run, **body.model_dump(), **_as(current_principal()))


def _rerun(*, newest_version: bool) -> Act:
    return partial(use.rerun, newest_version=newest_version, triggered_by=TriggeredBy.API, **_as(current_principal()))


@run_actions.post("/runs/<id>/cancel", responses={200: Done})
@requires(Role.OPERATOR)
def cancel_run(path: RunPath) -> dict[str, Any]:
    """Request that a run stops; `changed` is false when it has ended or is being cancelled already."""
    return do(partial(use.cancel_run, run_id=path.id, **_as(current_principal())))


@run_actions.post("/runs/<id>/clear", responses={200: Cleared, 409: None})
@requires(Role.OPERATOR)
def clear_run(path: RunPath, body: ClearBody) -> dict[str, Any]:
    """Run nodes of a run again; with `dry_run` only tell which."""
    act = _clear(body)
    return do(lambda connection: act(connection, path.id))


@run_actions.post("/runs/<id>/rerun", responses={201: NewRun, 409: None})
@requires(Role.OPERATOR)
def rerun_run(path: RunPath, body: RerunBody) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Start a new run with the params of this one."""
    act = _rerun(newest_version=body.newest_version)
    document = do(lambda connection: act(connection, path.id))
    return document, 201, {"Location": f"/api/v1/runs/{document['id']}"}


@run_actions.post("/runs/<id>/note", responses={200: Done})
@requires(Role.OPERATOR)
def note_run(path: RunPath, body: NoteBody) -> dict[str, Any]:
    """Keep a remark with a run."""
    return do(partial(use.set_note, run_id=path.id, note=body.note, **_as(current_principal())))


@run_actions.delete("/runs/<id>", responses={204: None, 409: None})
@requires(Role.OPERATOR)
def delete_run(path: RunPath) -> tuple[str, int]:
    """Delete an ended run with its sub-runs, outputs and logs."""
    do(partial(use.delete_run, run_id=path.id, **_as(current_principal())))
    return "", 204


@run_actions.post("/runs/bulk", responses={200: BulkAnswer})
@requires(Role.OPERATOR)
def act_on_runs(body: BulkBody) -> dict[str, Any]:
    """Do the same to several runs, each in a transaction of its own."""
    who = _as(current_principal())
    actions: dict[str, Act] = {
        "cancel": partial(use.cancel_run, **who),
        "clear": _clear(body.clear),
        "rerun": _rerun(newest_version=body.newest_version),
        "delete": partial(use.delete_run, **who),
        "note": partial(use.set_note, note=body.note, **who),
    }
    return {"items": [_one(actions[body.action], run_id) for run_id in dict.fromkeys(body.ids)]}


def _one(act: Act, run_id: str) -> dict[str, Any]:
    item = {"id": run_id, "status": 200, "changed": False, "new_id": None, "error": None}
    try:
        document = do(lambda connection: act(connection, run_id))
    except AgentFlowError as error:
        told = error.as_document()
        status = status_of(error)
        return item | {"status": status, "error": told | {"type": PREFIX + told["type"], "status": status}}
    if document["id"] != run_id:
        return item | {"status": 201, "changed": True, "new_id": document["id"]}
    return item | {"changed": document["changed"]}

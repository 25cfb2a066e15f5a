"""`/workflows/{name}/grid`: nodes down, runs across."""

from __future__ import annotations

import hashlib
import json
from functools import partial

from flask import Response
from pydantic import Field

from agentflow import runs as use
from agentflow.access import Role
from agentflow.states import NodeRunState, RunState, TriggeredBy
from webserver.access import current_principal, requires
from webserver.api.workflows_schemas import WorkflowPath
from webserver.arguments import Query
from webserver.database import do
from webserver.etags import conditional
from webserver.pages import Answer
from webserver.resource import Resource


class GridQuery(Query):
    """Which part of the grid."""

    runs: int = Field(25, ge=1, le=500, description="At most so many runs")
    cursor: str | None = Field(None, max_length=1000, description="`next_cursor` of the answer before: older runs")
    structure: str | None = Field(None, max_length=100, description="The `structure_etag` you have: spares the nodes")


class GridNode(Answer):
    """A row."""

    id: str
    type: str | None
    title: str | None
    group: str | None
    needs: list[str]
    mapped: bool
    removed: bool = Field(description="Only versions before the published one have it")


class GridRun(Answer):
    """A column."""

    id: str
    state: RunState
    triggered_by: TriggeredBy
    logical_date: str | None
    created_at: str
    duration: float | None = Field(description="Seconds; of a running one so far")
    version: int
    event_seq: int = Field(description="Grows with every change of the run")


class Grid(Answer):
    """The newest runs first."""

    structure_etag: str
    nodes: list[GridNode] | None = Field(description="Null: as `structure` says, you have them")
    runs: list[GridRun]
    cells: str = Field(description="Base64 of a byte per cell, column by column: an index into `states`")
    states: list[NodeRunState | None]
    next_cursor: str | None


grid = Resource("workflows", "Definitions: create, change, pause, publish, delete.", part="grid")


@grid.get("/workflows/<name>/grid", responses={200: Grid, 304: None})
@requires(Role.VIEWER)
def get_grid(path: WorkflowPath, query: GridQuery) -> Response:
    """The states of all nodes in the newest runs of a workflow; 304 while nothing has changed."""
    document = do(
        partial(
            use.read_grid,
            name=path.name,
            runs=query.runs,
            cursor=query.cursor,
            structure=query.structure,
            workspace=current_principal().workspace,
        )
    )
    seen = [document["structure_etag"], query.structure, [(run["id"], run["event_seq"]) for run in document["runs"]]]
    return conditional(document, hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32])

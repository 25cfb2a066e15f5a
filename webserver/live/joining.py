"""What a socket asks for when it joins a room, and whether there is such a thing in its workspace."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, text

from agentflow.access import Principal
from agentflow.catalog import find_workflow
from agentflow.db.queries.attempts import AttemptKey
from agentflow.errors import NotFound, UsageError
from agentflow.runs import live
from agentflow.runs.address import resolve_address
from agentflow.runs.ids import find_run
from webserver.live.rooms import RoomName

_NODE_NO = text("""
SELECT vn.node_no FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
WHERE r.id = :run AND r.workspace_id = :workspace
""")


class JoinMessage(BaseModel):
    """`join`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    room: Annotated[str, Field(max_length=6000)]
    after: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Of `run`: the `seq` of the last message; null: tell everything. Of `logs`: the number of the last line."""
    known: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(max_length=live.RUNS_MAX)] | None = None
    """Of lists, after a reconnect: `event_seq` by id of the runs shown; the answer has those that moved, and new ones."""


class LeaveMessage(BaseModel):
    """`leave`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    room: Annotated[str, Field(max_length=6000)]


@dataclass(frozen=True, slots=True)
class RunTarget:
    """A run of the workspace."""

    run: uuid.UUID


@dataclass(frozen=True, slots=True)
class ListTarget:
    """All runs of the workspace, or those of one workflow."""

    workflow: str | None


@dataclass(frozen=True, slots=True)
class LogTarget:
    """An attempt; it may not have begun."""

    key: AttemptKey


Target = RunTarget | ListTarget | LogTarget


def find_target(connection: Connection, principal: Principal, room: RoomName) -> Target:
    """What a room is about.

    Raises:
        NotFound: There is no such thing in the workspace.
        UsageError: The name cannot be read.
    """
    if room.kind == "workspace":
        return ListTarget(None)
    if room.kind == "workflow":
        return ListTarget(find_workflow(connection, room.subject, workspace=principal.workspace).name)
    if room.kind == "run":
        return RunTarget(find_run(connection, room.subject, workspace=principal.workspace))
    place = resolve_address(connection, room.subject, room.node, workspace=principal.workspace)
    if place.node is None:
        raise UsageError(f"{room.node!r} is a sub-run; its nodes have logs.", hint=f"{room.node}.NODE")
    found = {"run": place.run_id, "node": place.node, "workspace": principal.workspace_id}
    number = connection.scalar(_NODE_NO, found)
    if number is None:
        raise NotFound(f"There is no node {room.node!r} in the run {room.subject}.")
    return LogTarget((place.run_id, number, place.map_index, room.attempt))


def missed_runs(
    connection: Connection, principal: Principal, target: ListTarget, known: dict[str, int]
) -> dict[str, object]:
    """What a client that shows these runs has missed: `{"runs": […]}`, or `{"reset": true}` when that is too much.

    Raises:
        UsageError: A key is not the id of a run.
    """
    try:
        seqs = {uuid.UUID(run): seq for run, seq in known.items()}
    except ValueError as error:
        raise UsageError("The keys of `known` are ids of runs.") from error
    before = live.Known(seqs, max(seqs, default=uuid.UUID(int=0)))
    found = live.look_around(connection, principal.workspace_id, before) if seqs else None
    if found is None:
        return {"reset": True}
    rows = live.run_rows(connection, principal.workspace_id, found[0])
    return {"runs": [row for row in rows if target.workflow in (None, row["workflow"])]}

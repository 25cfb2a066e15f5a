"""What tells how the system is doing: events, import errors, schedulers, node types."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from pydantic import Field

from agentflow import catalog
from agentflow.access import Principal, Role
from agentflow.errors import AgentFlowError
from agentflow.nodes import registry
from webserver.access import current_principal, requires
from webserver.api.named import list_all
from webserver.database import do
from webserver.pages import Answer, Page, PageQuery, page
from webserver.resource import Resource


class Event(Answer):
    """Something that somebody did."""

    at: str
    actor: str
    action: str
    subject: str
    detail: Any


class EventPage(Page[Event]):
    """Events, the newest first."""


class EventQuery(PageQuery):
    """Which events."""

    subject: str | None = Field(None, max_length=500, description="Only what was done to this run, workflow, …")
    action: str | None = Field(None, max_length=100, description="`run.cleared`, or `run` for all of its kind")
    actor: str | None = Field(None, max_length=300, description="Only by this one")


class ImportProblem(Answer):
    """A file of the DAG folder that could not be loaded."""

    file: str
    message: str
    line: int | None
    traceback: str | None
    at: str


class ImportErrorPage(Page[ImportProblem]):
    """Import errors by file."""


class Scheduler(Answer):
    """A scheduler process."""

    id: str
    hostname: str
    pid: int
    state: str = Field(description="alive, stopping, stopped or dead")
    executors: list[str]
    queues: list[str]
    parallelism: int
    attempts: int = Field(description="Under way")
    started_at: str
    beat_at: str = Field(description="Its latest heartbeat")
    beat_age: float = Field(description="Seconds since then")


class Unserved(Answer):
    """Ready nodes of the workspace wait here, and no living scheduler takes them."""

    queue: str
    executor: str | None = Field(description="Null: any scheduler's default will do")
    workflows: list[str]


class SchedulerPage(Page[Scheduler]):
    """Schedulers, the newest first."""

    unserved: list[Unserved] = Field(description="Queues with ready nodes that none of them serves")


class SchedulerQuery(PageQuery):
    """Which schedulers."""

    ended_within: float | None = Field(None, gt=0, le=10**9, description="Not those silent for so many seconds")


class NodeType(Answer):
    """A node type that is installed."""

    name: str
    usable: bool
    problem: str | None = Field(description="Why it cannot be used")
    description: str | None
    config_schema: dict[str, Any] | None = Field(description="JSON Schema of its config")


class NodeTypeList(Answer):
    """All node types."""

    items: list[NodeType]


operations = Resource("operations", "How the system is doing.")


@operations.get("/events", responses={200: EventPage})
@requires(Role.VIEWER)
def list_events(query: EventQuery) -> dict[str, Any]:
    """List who did what, the newest first; of members and keys to admins, of users to administrators of the instance."""
    principal = current_principal()
    find = partial(
        catalog.list_events,
        subject=query.subject,
        action=query.action,
        actor=query.actor,
        without=_kept_back(principal),
        limit=query.limit,
        cursor=query.cursor,
        workspace=principal.workspace,
    )
    return page(*do(find))


def _kept_back(principal: Principal) -> list[str]:
    """Kinds of events that tell what `/users` and `/api-keys` do not tell the caller either.

    What concerns the whole instance stands in the log of `default`, whose members need not know who else there is.
    """
    kept = [] if principal.instance_admin else ["user"]
    if principal.role is None or principal.role < Role.ADMIN:
        kept += ["member", "api-key"]
    return kept


@operations.get("/import-errors", responses={200: ImportErrorPage})
@requires(Role.VIEWER)
def list_import_errors(query: PageQuery) -> dict[str, Any]:
    """List files of the DAG folder that could not be loaded."""
    return list_all(catalog.import_errors, query)


@operations.get("/schedulers", responses={200: SchedulerPage})
@requires(Role.VIEWER)
def list_schedulers(query: SchedulerQuery) -> dict[str, Any]:
    """List schedulers, the newest first, and what of the workspace none of them serves."""

    def look(connection: Any) -> dict[str, Any]:
        found = catalog.list_schedulers(
            connection, limit=query.limit, cursor=query.cursor, ended_within=query.ended_within
        )
        return page(*found) | {"unserved": catalog.unserved(connection)}

    return do(look)


@operations.get("/node-types", responses={200: NodeTypeList})
@requires(Role.VIEWER)
def list_node_types() -> dict[str, Any]:
    """List the installed node types with the JSON Schema of their config."""
    return {"items": [_node_type(name) for name in registry.names()]}


@cache
def _node_type(name: str) -> dict[str, Any]:
    try:
        found = registry.get(name)
    except AgentFlowError as error:
        return {"name": name, "usable": False, "problem": error.message, "description": None, "config_schema": None}
    return {
        "name": name,
        "usable": True,
        "problem": None,
        "description": (type(found).__doc__ or "").strip() or None,
        "config_schema": registry.config_schema(name),
    }

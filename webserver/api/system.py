"""`/system`: what the system leans on."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentflow.access import Role
from webserver.access import requires
from webserver.ops.dependencies import Dependencies, State, dependencies_of
from webserver.pages import Answer
from webserver.resource import Resource
from webserver.state import current_web


class Dependency(Answer):
    """Something that the system leans on."""

    name: str
    state: State = Field(description="`off`: it is not configured")
    latency_ms: float | None
    since: str = Field(description="When this server first saw it in this state")
    detail: str | None = Field(description="Why it is down; the server's log tells more")


class DependencyList(Answer):
    """All dependencies."""

    items: list[Dependency]


system = Resource("operations", "How the system is doing.", part="system")


@system.get("/system/dependencies", responses={200: DependencyList})
@requires(Role.VIEWER)
def list_dependencies() -> dict[str, Any]:
    """Whether database, object store, Redis and mail answer, how fast, and since when."""
    web = current_web()
    found = web.parts.get(__name__)
    if not isinstance(found, Dependencies):
        found = web.parts[__name__] = dependencies_of(web.settings, web.engine, web.redis)
    return {"items": found.look()}

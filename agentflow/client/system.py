"""`client.system`: how the system is doing, and who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from agentflow.client.documents import Event, ImportProblem, Me, NodeType, Page, Readiness, SchedulerPage
from agentflow.client.http import Http
from agentflow.client.pages import each, page


class System:
    """Events, import errors, schedulers, node types."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def events(
        self,
        *,
        subject: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """A page of who did what, the newest first."""
        query = {"subject": subject, "action": action, "actor": actor}
        return page(self._http, "/events", query, limit=limit, cursor=cursor)

    def import_errors(self) -> Iterator[ImportProblem]:
        """Files of the DAG folder that could not be loaded."""
        return each(self._http, "/import-errors")

    def schedulers(self, *, ended_within: float | None = None, limit: int = 25) -> SchedulerPage:
        """Schedulers, the newest first, and queues with ready nodes that none of them serves.

        Args:
            ended_within: Leave those out that have been silent for so many seconds.
            limit: At most so many.
        """
        found = page(self._http, "/schedulers", {"ended_within": ended_within}, limit=limit, cursor=None)
        return cast("SchedulerPage", found)

    def node_types(self) -> list[NodeType]:
        """Installed node types."""
        return cast("list[NodeType]", self._http.get("/node-types")["items"])

    def me(self) -> Me:
        """Who the caller is, and what they may do."""
        return cast("Me", self._http.get("/auth/me"))

    def version(self) -> str:
        """The version of the server."""
        return str(self._http.get("//api/v1/openapi.json")["info"]["version"])

    def readiness(self) -> Readiness:
        """Whether the system can run workflows."""
        return cast("Readiness", self._http.call("GET", "//readyz", expect=(503,), repeatable=False).json())

"""Events and import errors on the database."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from agentflow import catalog
from agentflow.cli.local.group import Document, Group


class System(Group):
    """How the system is doing."""

    def events(
        self,
        *,
        subject: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """A page of who did what."""
        find = partial(
            catalog.list_events, subject=subject, action=action, actor=actor, limit=limit, cursor=cursor, **self._where
        )
        items, following = self._session.do(find)
        return {"items": items, "next_cursor": following}

    def schedulers(self, *, ended_within: float | None = None, limit: int = 25) -> Document:
        """Schedulers, and queues with ready nodes that none of them serves."""

        def look(connection: Any) -> Document:
            items, following = catalog.list_schedulers(connection, limit=limit, ended_within=ended_within)
            return {"items": items, "next_cursor": following, "unserved": catalog.unserved(connection)}

        return self._session.do(look)

    def import_errors(self) -> Iterator[Document]:
        """Files that could not be loaded."""
        yield from self._session.do(partial(catalog.import_errors, **self._where))[0]

"""What pools, variables, secrets and connections have in common: they are found, made and replaced by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field
from sqlalchemy import Connection

from agentflow.errors import NotFound
from webserver.access import current_principal
from webserver.arguments import Path
from webserver.database import do
from webserver.pages import PageQuery, page

#: A list function of the catalog: `find(connection, name=, limit=, cursor=, workspace=)`.
Find = Callable[..., tuple[list[dict[str, Any]], str | None]]
Document = dict[str, Any]


class NamePath(Path):
    """Which one."""

    name: str = Field(max_length=100)


def list_all(find: Find, query: PageQuery) -> Document:
    """A page of them."""
    workspace = current_principal().workspace
    return page(*do(lambda connection: find(connection, limit=query.limit, cursor=query.cursor, workspace=workspace)))


def show_one(find: Find, kind: str, name: str) -> Document:
    """The one of this name.

    Raises:
        NotFound: There is none.
    """
    workspace = current_principal().workspace
    items, _ = do(lambda connection: find(connection, name=name, workspace=workspace))
    if not items:
        raise NotFound(f"There is no {kind} {name!r}.")
    return items[0]


def put_one(find: Find, name: str, change: Callable[..., object]) -> tuple[Document, int]:
    """Make or replace one; 201 when it is new. `change(connection, actor=, workspace=)` does it."""
    principal = current_principal()

    def work(connection: Connection) -> tuple[Document, int]:
        before, _ = find(connection, name=name, workspace=principal.workspace)
        change(connection, actor=principal.name, workspace=principal.workspace)
        (after,), _ = find(connection, name=name, workspace=principal.workspace)
        return after, 200 if before else 201

    return do(work)


def delete_one(delete: Callable[..., object], name: str) -> tuple[str, int]:
    """Delete one."""
    principal = current_principal()
    do(lambda connection: delete(connection, name, actor=principal.name, workspace=principal.workspace))
    return "", 204

"""`/connections`: how to reach systems; secret fields are set and never shown."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field, SecretStr

from agentflow import secrets as store
from agentflow.access import Role
from webserver.access import requires
from webserver.api.named import NamePath, delete_one, list_all, put_one, show_one
from webserver.arguments import Body
from webserver.keys import keys
from webserver.pages import Answer, Page, PageQuery
from webserver.resource import Resource


class Connection(Answer):
    """A connection, without the values of its secret fields."""

    name: str
    type: str
    config: dict[str, Any] = Field(description="Plain fields")
    secret_fields: list[str] = Field(description="Names of its secret fields")
    updated_at: str
    updated_by: str


class ConnectionPage(Page[Connection]):
    """Connections by name."""


class ConnectionBody(Body):
    """What a connection is to be; fields that are not given are gone."""

    type: str = Field(max_length=100)
    config: dict[str, Any] = Field({}, max_length=100, description="Plain fields")
    secrets: dict[str, SecretStr] = Field({}, max_length=100, description="Secret fields; never shown again")


connections = Resource("connections", "How to reach other systems.")


@connections.get("/connections", responses={200: ConnectionPage})
@requires(Role.VIEWER)
def list_connections(query: PageQuery) -> dict[str, Any]:
    """List connections."""
    return list_all(store.list_connections, query)


@connections.get("/connections/<name>", responses={200: Connection})
@requires(Role.VIEWER)
def get_connection(path: NamePath) -> dict[str, Any]:
    """Show a connection."""
    return show_one(store.list_connections, "connection", path.name)


@connections.put("/connections/<name>", responses={200: Connection, 201: Connection})
@requires(Role.EDITOR)
def put_connection(path: NamePath, body: ConnectionBody) -> tuple[dict[str, Any], int]:
    """Create or replace a connection."""
    change = partial(
        store.set_connection,
        name=path.name,
        type=body.type,
        config=body.config,
        secrets={field: value.get_secret_value() for field, value in body.secrets.items()},
        ring=keys() if body.secrets else None,
    )
    return put_one(store.list_connections, path.name, change)


@connections.delete("/connections/<name>", responses={204: None})
@requires(Role.EDITOR)
def delete_connection(path: NamePath) -> tuple[str, int]:
    """Delete a connection."""
    return delete_one(store.delete_connection, path.name)

"""`/secrets`: set and deleted, listed by name, read by nobody."""

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


class Secret(Answer):
    """A secret, without its value."""

    name: str
    key_id: str = Field(description="Which secret key it is encrypted with")
    updated_at: str
    updated_by: str


class SecretPage(Page[Secret]):
    """Secrets by name."""


class SecretBody(Body):
    """The value of a secret."""

    value: SecretStr = Field(description="Text; it is never shown again")


secrets = Resource("secrets", "Values that templates read as `secrets.<name>` and nobody else reads.")


@secrets.get("/secrets", responses={200: SecretPage})
@requires(Role.VIEWER)
def list_secrets(query: PageQuery) -> dict[str, Any]:
    """List names of secrets, and who set them when."""
    return list_all(store.list_secrets, query)


@secrets.get("/secrets/<name>", responses={200: Secret})
@requires(Role.VIEWER)
def get_secret(path: NamePath) -> dict[str, Any]:
    """Show when a secret was set and by whom; never its value."""
    return show_one(store.list_secrets, "secret", path.name)


@secrets.put("/secrets/<name>", responses={200: Secret, 201: Secret})
@requires(Role.EDITOR)
def put_secret(path: NamePath, body: SecretBody) -> tuple[dict[str, Any], int]:
    """Create a secret or replace its value."""
    change = partial(store.set_secret, name=path.name, value=body.value.get_secret_value(), ring=keys())
    return put_one(store.list_secrets, path.name, change)


@secrets.delete("/secrets/<name>", responses={204: None})
@requires(Role.EDITOR)
def delete_secret(path: NamePath) -> tuple[str, int]:
    """Delete a secret."""
    return delete_one(store.delete_secret, path.name)

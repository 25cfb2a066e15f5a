"""`client.pools`, `variables`, `secrets`, `connections`, `webhooks`: what is found by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from agentflow.client.documents import Changed, Connection, NewToken, Pool, Secret, Variable, Webhook
from agentflow.client.http import Http, address
from agentflow.client.pages import each


class _Named:
    """What has a name and is set, listed and deleted."""

    kind = ""

    def __init__(self, http: Http) -> None:
        self._http = http

    def _put(self, name: str, body: Mapping[str, Any]) -> Changed:
        self._http.call("PUT", address(self.kind, name), body=body)
        return {"name": name, "changed": True}

    def delete(self, name: str) -> Changed:
        """Delete the one of this name."""
        self._http.call("DELETE", address(self.kind, name))
        return {"name": name, "changed": True}


class Pools(_Named):
    """Limits on node runs at once."""

    kind = "pools"

    def list(self) -> Iterator[Pool]:
        """Every pool."""
        return each(self._http, "/pools")

    def set(self, name: str, slots: int, *, description: str | None = None) -> Changed:
        """Create a pool or change it; a description that is not given stays."""
        return self._put(name, {"slots": slots} | ({} if description is None else {"description": description}))


class Variables(_Named):
    """Values that templates read as `vars.<name>`."""

    kind = "variables"

    def list(self) -> Iterator[Variable]:
        """Every variable."""
        return each(self._http, "/variables")

    def set(self, name: str, value: Any) -> Changed:
        """Create a variable or change it."""
        return self._put(name, {"value": value})


class Secrets(_Named):
    """Values that templates read as `secrets.<name>` and nobody reads back."""

    kind = "secrets"

    def list(self) -> Iterator[Secret]:
        """Names of the secrets, and who set them when."""
        return each(self._http, "/secrets")

    def set(self, name: str, value: str) -> Changed:
        """Create a secret or change it."""
        return self._put(name, {"value": value})


class Connections(_Named):
    """How to reach other systems."""

    kind = "connections"

    def list(self) -> Iterator[Connection]:
        """Every connection with its plain fields and the names of its secret ones."""
        return each(self._http, "/connections")

    def set(
        self,
        name: str,
        *,
        type: str,  # noqa: A002 - the API's word
        config: Mapping[str, Any],
        secrets: Mapping[str, str],
    ) -> Changed:
        """Create a connection or replace it whole."""
        return self._put(name, {"type": type, "config": dict(config), "secrets": dict(secrets)})


class Webhooks:
    """Addresses that start runs."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self) -> Iterator[Webhook]:
        """Webhook triggers and what is known of their tokens."""
        yield from each(self._http, "/webhooks")

    def rotate(self, workflow: str, trigger: str | None = None, *, signed: bool = False) -> NewToken:
        """Make a new token; the one before is dead at once."""
        body: dict[str, Any] = {"signed": signed} | ({} if trigger is None else {"trigger": trigger})
        return cast("NewToken", self._http.call("POST", address("workflows", workflow, "webhook"), body=body).json())

    def revoke(self, name: str) -> Changed:
        """Forget a token; `name` is `workflow/trigger`."""
        workflow, _, trigger = name.partition("/")
        self._http.call("DELETE", address("workflows", workflow, "webhook", trigger or "-"))
        return {"name": name, "changed": True}

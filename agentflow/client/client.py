"""The client: one caller of one API, with a group of calls for each resource."""

from __future__ import annotations

from typing import Self

import httpx

from agentflow.client.accounts import ApiKeys, Users, Workspaces
from agentflow.client.backfills import Backfills
from agentflow.client.http import PATIENCE, TIMEOUT, Http
from agentflow.client.named import Connections, Pools, Secrets, Variables, Webhooks
from agentflow.client.runs import Runs
from agentflow.client.system import System
from agentflow.client.workflows import Workflows


class Client:
    """A caller of the API. Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        workspace: str | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: Of the webserver: `https://agentflow.example.org`.
            api_key: Credentials: a key,
            token: or an access token.
            workspace: Whose workflows; by default the one of the key, else `default`.
            timeout: Seconds for one answer.
            patience: Seconds that a server which is away is tried again. One that asks to wait (429, 503 with
                `Retry-After`) is waited for up to a minute. What could be done twice is never sent twice.
            transport: Replaces the network, for tests.
        """
        self._http = Http(
            url,
            api_key=api_key,
            token=token,
            workspace=workspace,
            timeout=timeout,
            patience=patience,
            transport=transport,
        )
        self.workspace = workspace
        self.workflows = Workflows(self._http)
        self.runs = Runs(self._http)
        self.backfills = Backfills(self._http)
        self.pools = Pools(self._http)
        self.variables = Variables(self._http)
        self.secrets = Secrets(self._http)
        self.connections = Connections(self._http)
        self.webhooks = Webhooks(self._http)
        self.users = Users(self._http)
        self.api_keys = ApiKeys(self._http)
        self.workspaces = Workspaces(self._http)
        self.system = System(self._http)

    @property
    def url(self) -> str:
        """Address of the webserver."""
        return self._http.url

    def wait_longer(self, patience: float) -> None:
        """From now on try a server that is away for so many seconds."""
        self._http.patience = max(self._http.patience, patience)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:  # no credentials
        return f"Client({self.url!r}, workspace={self.workspace!r})"

"""Requests: addresses, credentials, repeats, errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from agentflow.client.problems import error_of
from agentflow.client.retries import OUTCOMES, REPEATABLE, Failure, Outcome, pause, retry_after
from agentflow.errors import ApiError, ApiUnreachable, SettingsError

API = "/api/v1"
TIMEOUT = 30.0  #: Seconds for one answer; the server gives up on a statement after 15.
PATIENCE = 3.0  #: Seconds that a server which is away is tried again.

Query = Mapping[str, Any]


def address(*parts: str | int) -> str:
    """A path below `/api/v1`, each part percent-encoded: `fetch[3]` is one part."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


class Http:
    """The API behind one address, as one caller."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        token: str | None,
        workspace: str | None,
        timeout: float,
        patience: float,
        transport: httpx.BaseTransport | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(
                f"{url!r} is not the address of an API.", hint="it looks like https://agentflow.example.org"
            )
        if api_key and token:
            raise SettingsError("There are two credentials.", hint="give either an API key or a token")
        self.url = url.rstrip("/").removesuffix(API)
        self.patience = patience
        self._sleep, self._clock = sleep, clock
        headers = {"Accept": "application/json", "User-Agent": "agentflow-client"}
        if api_key:
            headers["X-API-Key"] = api_key
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if workspace:
            headers["X-Workspace"] = workspace
        try:
            self._client = httpx.Client(headers=headers, timeout=timeout, transport=transport)
        except UnicodeEncodeError as error:
            raise SettingsError("The API key, token or workspace has characters that no header may hold.") from error

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON that a GET answers."""
        return self.call("GET", path, query=query).json()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        expect: tuple[int, ...] = (),
        repeatable: bool | None = None,
    ) -> httpx.Response:
        """The answer to a request, sent again where that does no harm.

        Args:
            method: GET, POST, …
            path: Below `/api/v1`; one that begins with `//` is taken below the server itself.
            body: JSON.
            query: Values; lists are repeated, None is left out.
            headers: Besides those of every request.
            expect: Statuses that are no errors though they are not 2xx.
            repeatable: Whether doing it twice does no harm; by default the method says it.

        Raises:
            ApiUnreachable: Nobody answers, or only that it is out of order.
            AgentFlowError: What the answer tells.
        """
        request = self._client.build_request(
            method, self._url(path), json=body, params=_plain(query or {}), headers=headers
        )
        safe = method in REPEATABLE if repeatable is None else repeatable
        return self._checked(self._send(request, repeatable=safe), expect)

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        """The body of a GET, piece by piece."""
        request = self._client.build_request("GET", self._url(path))
        response = self._send(request, repeatable=True, stream=True)
        try:
            if not response.is_success:
                response.read()
            self._checked(response, ())
            yield _pieces(response)
        finally:
            response.close()

    def _url(self, path: str) -> str:
        return self.url + (path[1:] if path.startswith("//") else API + path)

    def _send(self, request: httpx.Request, *, repeatable: bool, stream: bool = False) -> httpx.Response:
        began, tries = self._clock(), 0
        while True:
            tries += 1
            cause: httpx.TransportError | None = None
            response: httpx.Response | None = None
            asked = None
            try:
                response = self._client.send(request, stream=stream)
                if response.status_code not in OUTCOMES:
                    return response
                outcome, asked = OUTCOMES[response.status_code], retry_after(response.headers.get("Retry-After"))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                outcome, cause = Outcome.NOT_SENT, error
            except httpx.TransportError as error:
                outcome, cause = Outcome.NO_ANSWER, error
            wait = pause(Failure(outcome, repeatable, tries, self._clock() - began, asked), self.patience)
            if wait is None:
                if response is not None:
                    return response
                raise ApiUnreachable(
                    f"{self.url} does not answer: {str(cause) or type(cause).__name__}",
                    hint="is the webserver up, and AGENTFLOW_API_URL its address? `agentflow doctor` tells more",
                ) from cause
            if response is not None:
                response.close()
            self._sleep(wait)

    def _checked(self, response: httpx.Response, expect: tuple[int, ...]) -> httpx.Response:
        if response.is_success or response.status_code in expect:
            return response
        if response.is_redirect:
            raise ApiError(
                f"{response.request.url} has moved to {response.headers.get('Location')}.",
                hint="set AGENTFLOW_API_URL to that server; credentials are not sent to other addresses by themselves",
                status=response.status_code,
            )
        raise error_of(response.status_code, response.content, asked=str(response.request.url))


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except httpx.TransportError as error:
        raise ApiUnreachable(f"The answer broke off: {str(error) or type(error).__name__}", hint="ask again") from error


def _plain(query: Query) -> dict[str, Any]:
    """Values as the API reads them."""
    told: dict[str, Any] = {}
    for name, value in query.items():
        if value is None or value in ([], ()):
            continue
        told[name] = [str(item) for item in value] if isinstance(value, (list, tuple)) else _word(value)
    return told


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)

"""The pooled HTTP client of an event loop, which connects to checked addresses only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary

import httpcore
import httpx

from agentflow.nodes.http_guard import resolve

_IDLE: Final = 3.0  # seconds a connection waits for its next request; below the 5 s at which many servers close
_KEPT: Final = 100  # idle connections kept
_LOOKUPS: Final = 64  # names looked up at once, each in a thread


class Client:
    """An httpcore pool in httpx's words.

    httpx's own client keeps cookies, logs whole addresses and follows redirects; its transport takes no network
    backend. None of that is wanted here.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=None,  # an attempt has one connection, and attempts are counted elsewhere
            max_keepalive_connections=_KEPT,
            keepalive_expiry=_IDLE,
            network_backend=_Backend(allow_private=allow_private),
        )

    async def send(self, request: httpx.Request, *, patience: float) -> httpx.Response:
        """The response with its body still to be read; close it.

        Args:
            request: With its whole body.
            patience: Seconds for finding a connection; what comes after is for the caller to limit.

        Raises:
            NodeFailed: The address is refused or unknown.
            Exception: One of httpcore's: timeouts, network and protocol errors.
        """
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
                extensions={"timeout": {"connect": patience}},
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), request=request)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, Client]] = WeakKeyDictionary()


def client(*, allow_private: bool) -> Client:
    """The client of the running event loop; a connection made with `allow_private` is never used without it."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if allow_private not in clients:
        clients[allow_private] = Client(allow_private=allow_private)
    return clients[allow_private]


async def close_clients() -> None:
    """Close the clients of the running event loop."""
    for found in _clients.pop(asyncio.get_running_loop(), {}).values():
        await found.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer.aiter_stream():
            yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert timeout is not None  # `send` gives it
        ends = time.monotonic() + timeout
        async with self._lookups:
            addresses = await resolve(host, port, allow_private=self._allow_private, patience=timeout)
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            share = max(0.0, ends - time.monotonic()) / (len(addresses) - number)
            try:
                return await self._network.connect_tcp(
                    str(address.sockaddr[0]), port, share, local_address, socket_options
                )
            except httpcore.ConnectTimeout as error:
                problem = error
            except httpcore.ConnectError as error:
                problem = httpcore.ConnectError(_reason(error))
        raise problem


def _reason(error: BaseException) -> str:
    """What the system said; asyncio, anyio and httpcore wrap it in words of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error)

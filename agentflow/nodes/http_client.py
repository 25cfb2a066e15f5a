"""The HTTP client of an event loop: it connects to checked addresses only, and keeps connections for the next request.

httpx's own client keeps cookies, logs whole addresses and follows redirects; its transport takes no network backend; and
httpcore's pool looks at all connections at every request, which with hundreds at once costs more than the requests. None
of that is wanted here, so single connections of httpcore are used, in httpx's words.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import httpcore
import httpx

from agentflow.nodes.http_guard import resolve

_IDLE: Final = 3.0  # seconds a connection waits for its next request; below the 5 s at which many servers close
_KEPT: Final = 64  # idle connections kept
_LOOKUPS: Final = 64  # names looked up at once, each in a thread

#: A connection, and the origin that it leads to.
_Idle = tuple[httpcore.Origin, httpcore.AsyncHTTPConnection]


class Client:
    """As many connections as there are requests at once; how many that may be is for others to limit."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._ssl = httpx.create_ssl_context()
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._idle: deque[_Idle] = deque()  # the one that was used last at the end

    async def send(self, request: httpx.Request, *, patience: float) -> httpx.Response:
        """The response with its body still to be read; close it.

        Args:
            request: With its whole body.
            patience: Seconds for making a connection; what comes after is for the caller to limit.

        Raises:
            NodeFailed: The address is refused or unknown.
            Exception: One of httpcore's: timeouts, network and protocol errors.
        """
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        connection = await self._idle_to(url.origin)
        network = _Network(self._lookups, allow_private=self._allow_private)
        if connection is None:
            connection = httpcore.AsyncHTTPConnection(
                url.origin, ssl_context=self._ssl, keepalive_expiry=_IDLE, network_backend=network
            )
        try:
            answer = await connection.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=url,
                    headers=request.headers.raw,
                    content=request.read(),
                    extensions={"timeout": {"connect": patience}},
                )
            )
        except BaseException:
            await connection.aclose()
            await network.aclose()
            raise
        body = _Body(answer, self, (url.origin, connection))
        return httpx.Response(answer.status, headers=answer.headers, stream=body, request=request)

    async def keep(self, idle: _Idle) -> None:
        """Take a connection back whose response is closed."""
        if not idle[1].is_idle():
            await idle[1].aclose()
            return
        self._idle.append(idle)
        if len(self._idle) > _KEPT:
            await self._idle.popleft()[1].aclose()

    async def aclose(self) -> None:
        """Close every idle connection."""
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def _idle_to(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection | None:
        """A connection that waits for the next request; those that waited for too long are closed on the way."""
        while self._idle and self._idle[0][1].has_expired():
            await self._idle.popleft()[1].aclose()
        for index in reversed(range(len(self._idle))):
            if self._idle[index][0] == origin:
                connection = self._idle[index][1]
                del self._idle[index]
                if not connection.has_expired():
                    return connection
                await connection.aclose()
                return None
        return None


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
    """A response's body; closing it gives the connection back."""

    def __init__(self, answer: httpcore.Response, owner: Client, connection: _Idle) -> None:
        self._answer = answer
        self._owner = owner
        self._connection: _Idle | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer.aiter_stream():
            yield piece

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await self._answer.aclose()
        finally:
            await self._owner.keep(connection)


class _Network(httpcore.AsyncNetworkBackend):
    """Connects once, to a checked address."""

    def __init__(self, lookups: asyncio.Semaphore, *, allow_private: bool) -> None:
        self._lookups = lookups
        self._allow_private = allow_private
        self._network = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

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
                self._stream = await self._network.connect_tcp(
                    str(address.sockaddr[0]), port, share, local_address, socket_options
                )
            except httpcore.ConnectTimeout as error:
                problem = error
            except httpcore.ConnectError as error:
                problem = httpcore.ConnectError(_reason(error))
            else:
                return self._stream
        raise problem

    async def aclose(self) -> None:
        """Close what was opened; a request that is cancelled during the handshake of TLS leaves it open."""
        if self._stream is not None:
            with suppress(Exception):
                await self._stream.aclose()


def _reason(error: BaseException) -> str:
    """What the system said; asyncio, anyio and httpcore wrap it in words of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error)

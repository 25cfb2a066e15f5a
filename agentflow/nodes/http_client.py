"""The pooled HTTP client of a runner process: checked addresses, and one deadline over everything a request does.

httpx and httpcore limit each read and write. A server that sends one byte at a time would hold a node for ever, so
the streams here take the time that is left until the deadline of the running request instead.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import httpcore
import httpx

from agentflow.nodes.http_guard import Address, resolve

_PIECE: Final = 64 * 1024  # bytes per write, so that the deadline is looked at in between
_IDLE: Final = 3.0  # seconds a connection waits for its next request; below the 5 s at which many servers close

_deadline: ContextVar[float] = ContextVar("http_deadline")


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit everything that is requested inside, in this thread, to so many seconds in all."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left() -> float:
    """Seconds until the deadline.

    Raises:
        httpcore.ReadTimeout: There are none left.
    """
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


class Client:
    """An httpcore pool in httpx's words.

    httpx's own client keeps cookies, logs whole addresses and follows redirects; its transport takes no network
    backend. None of that is wanted here.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=100,
            keepalive_expiry=_IDLE,
            network_backend=_Backend(allow_private=allow_private),
        )

    def send(self, request: httpx.Request) -> httpx.Response:
        """The response with its body still to be read; close it, or use it in a `with`.

        Raises:
            NodeFailed: The address is refused or unknown.
            Exception: One of httpcore's: timeouts, network and protocol errors.
        """
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
                extensions={"timeout": {"pool": time_left()}},
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), request=request)


def client(*, allow_private: bool) -> Client:
    """The client of this process; safe to use from several threads."""
    return _client(os.getpid(), allow_private)


@cache
def _client(pid: int, allow_private: bool) -> Client:  # noqa: ARG001 - connections do not survive a fork
    return Client(allow_private=allow_private)


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.NetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline stands in
        local_address: str | None = None,  # noqa: ARG002 - not used by our pool
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - not used by our pool
    ) -> httpcore.NetworkStream:
        addresses = resolve(host, port, allow_private=self._allow_private, timeout=time_left())
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            try:
                return _Stream(_connect(address, time_left() / (len(addresses) - number)))
            except TimeoutError:
                problem = httpcore.ConnectTimeout()
            except OSError as error:
                problem = httpcore.ConnectError(error.strerror or str(error))
        raise problem


def _connect(address: Address, timeout: float) -> socket.socket:
    connection = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect(address.sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


class _Stream(httpcore.NetworkStream):
    """A socket whose every operation ends at the deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline stands in
        self._socket.settimeout(time_left())
        try:
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline stands in
        rest = memoryview(buffer)
        try:
            while rest:
                self._socket.settimeout(time_left())
                rest = rest[self._socket.send(rest[:_PIECE]) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the deadline stands in
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(time_left())
            return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout from error
        except OSError as error:  # certificates that do not fit too
            self.close()
            raise httpcore.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return _is_readable(self._socket)
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None


def _is_readable(connection: socket.socket) -> bool:
    """Whether an idle connection has something to say: mostly that the server closed it."""
    import select

    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))

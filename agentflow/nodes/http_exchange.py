"""One exchange of an `http` node: request, redirects, response."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import aclosing
from typing import Any, Final

import httpcore
import httpx

from agentflow.durations import format_duration
from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.http import HttpConfig
from agentflow.nodes.http_body import BodyTooLarge, read_body, value_of
from agentflow.nodes.http_client import client

MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_EXCERPT: Final = 500  # characters of an unexpected response that go into the error
_LARGE: Final = 64 * 1024  # bytes of a body that is parsed in a thread, so that other attempts have their turn
_BROKEN: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)

#: Headers that follow a redirect to another server; any other may be a credential.
_HARMLESS: Final = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})


async def exchange(config: HttpConfig, context: NodeContext) -> dict[str, Any]:
    """Send the request, follow redirects, read the response.

    Raises:
        NodeFailed: Refused address, network trouble, timeout, unexpected status, or a body that is too large or not
            what it says it is.
    """
    request = first_request(config)
    seconds = config.timeout.total_seconds()
    ends = time.monotonic() + seconds
    try:
        # httpcore limits each read and write; a server that sends one byte at a time would hold a node for ever.
        async with asyncio.timeout(seconds):
            for _ in range(MAX_REDIRECTS + 1):
                outcome = await _hop(request, config, context, ends)
                if not isinstance(outcome, httpx.Request):
                    return outcome
                request = outcome
    except (TimeoutError, httpcore.TimeoutException) as error:
        limit = format_duration(config.timeout)
        raise NodeFailed(f"{_what(request)} took longer than its timeout of {limit}", kind="Timeout") from error
    raise NodeFailed(f"more than {MAX_REDIRECTS} redirects, the last to {shown(request.url)}", kind="TooManyRedirects")


def first_request(config: HttpConfig) -> httpx.Request:
    """The request that a config describes; a user and password in the address become a header."""
    try:
        url = httpx.URL(config.url)
        if config.query:
            url = url.copy_merge_params({name: list(values) for name, values in config.query.items()})
    except httpx.InvalidURL as error:
        raise NodeFailed(f"url: {error}", kind="InvalidUrl") from error
    headers = httpx.Headers({"User-Agent": "AgentFlow", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"})
    if url.userinfo:
        login = f"{url.username}:{url.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        url = url.copy_with(userinfo=b"")
    content = None
    if config.sends_json:
        content = json.dumps(config.json_, ensure_ascii=False, separators=(",", ":")).encode()
        headers["Content-Type"] = "application/json"
    elif config.body is not None:
        content = config.body.encode()
    headers.update(httpx.Headers([(name.encode(), value.encode()) for name, value in config.headers.items()]))
    return httpx.Request(config.method, url, headers=headers, content=content)


def redirected(request: httpx.Request, status: int, location: str) -> httpx.Request:
    """The request that a redirect asks for, as browsers do it, without credentials for another server.

    Raises:
        NodeFailed: The new address is not a web address.
    """
    try:
        url = request.url.join(location)
        url = url.copy_with(userinfo=b"", fragment=None)
    except httpx.InvalidURL as error:
        raise NodeFailed(f"{shown(request.url)} redirects to a broken address: {error}", kind="InvalidUrl") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise NodeFailed(f"{shown(request.url)} redirects to a {url.scheme}: address", kind="RedirectRefused")
    method, content = request.method, request.read() or None
    headers = request.headers.copy()
    del headers["Host"]  # follows from the address
    if not _same_server(request.url, url):
        headers = httpx.Headers([(name, value) for name, value in headers.raw if name.decode().lower() in _HARMLESS])
    if (status in {302, 303} and method not in {"GET", "HEAD"}) or (
        status == httpx.codes.MOVED_PERMANENTLY and method == "POST"
    ):
        method, content = "GET", None
        headers.pop("Content-Type", None)
    headers.pop("Content-Length", None)
    return httpx.Request(method, url, headers=headers, content=content)


def shown(url: httpx.URL) -> str:
    """An address for logs and errors: without the query, where keys often are."""
    return str(url.copy_with(query=None, fragment=None, userinfo=b""))


def _what(request: httpx.Request) -> str:
    return f"{request.method} {shown(request.url)}"


async def _hop(
    request: httpx.Request, config: HttpConfig, context: NodeContext, ends: float
) -> httpx.Request | dict[str, Any]:
    what = _what(request)
    began = time.monotonic()
    try:
        answer = await client(allow_private=context.allow_private_http).send(request, patience=ends - began)
        async with aclosing(answer) as response:
            context.log(f"{what}: {_status(response)}, {(time.monotonic() - began) * 1000:.0f} ms")
            location = response.headers.get("Location")
            if response.status_code in _REDIRECTS and location is not None:
                return redirected(request, response.status_code, location)
            return await _result(what, response, config, context)
    except _BROKEN as error:
        raise NodeFailed(f"{what}: {error or type(error).__name__}", kind=type(error).__name__) from error


async def _result(what: str, response: httpx.Response, config: HttpConfig, context: NodeContext) -> dict[str, Any]:
    if not config.accepts(response.status_code):
        expected = ", ".join(config.expect)
        begins = await _excerpt(response)
        said = f"; the body begins: {begins}" if begins else ""
        raise NodeFailed(f"{what} answered {_status(response)}, expected {expected}{said}", kind="HttpStatus")
    try:
        data = await read_body(response, context.output_max, make_room=context.make_room)
        content_type = response.headers.get("Content-Type", "")
        if len(data) > _LARGE:
            body = await asyncio.to_thread(value_of, content_type, data)
        else:
            body = value_of(content_type, data)
    except ValueError as error:
        raise NodeFailed(f"{what}: {error}", kind=type(error).__name__) from error
    return {"status": response.status_code, "headers": dict(response.headers), **body}


async def _excerpt(response: httpx.Response) -> str:
    try:
        data = await read_body(response, 64 * 1024, cut=True)
    except (ValueError, BodyTooLarge):
        return ""
    text = " ".join(data.decode("utf-8", "replace").split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".rstrip()


def _same_server(old: httpx.URL, new: httpx.URL) -> bool:
    """Same scheme, host and port, or the step from http to https of one host on the usual ports."""
    if old.host != new.host:
        return False
    if old.scheme == new.scheme:
        return _port(old) == _port(new)
    return (old.scheme, _port(old), new.scheme, _port(new)) == ("http", 80, "https", 443)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)

"""A response's body: read up to a limit, unpacked by hand so that a small bomb stays small, and made JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import httpx

from agentflow.nodes.base import MakeRoom

_TEXTUAL: Final = ("xml", "html", "javascript", "x-www-form-urlencoded", "yaml", "csv", "ndjson", "jsonl")
_GZIP_START: Final = b"\x1f"
_GZIP: Final = 16 + zlib.MAX_WBITS
_LARGE: Final = 2**20  # bytes
_STEP: Final = 256 * 1024  # bytes unpacked at once; other attempts have their turn in between


class BodyTooLarge(ValueError):
    """The body is larger than a node's output may be."""


class BodyBroken(ValueError):
    """The body is not what its headers say."""


async def read_body(
    response: httpx.Response, limit: int, *, cut: bool = False, make_room: MakeRoom | None = None
) -> bytes:
    """The unpacked body.

    Args:
        response: Open, its body not read.
        limit: Bytes.
        cut: Return the first `limit` bytes of a larger body instead of failing.
        make_room: Awaited once the body turns out to be large.

    Raises:
        BodyTooLarge: The body is larger than the limit.
        BodyBroken: It is packed in a way that is broken or not known.
    """
    data = bytearray()
    try:
        async with aclosing(_unpacked(response, min(limit + 1, _STEP))) as pieces:
            async for piece in pieces:
                data += piece
                if make_room is not None and len(data) > _LARGE:
                    await make_room()
                    make_room = None
                if len(data) > limit:
                    if cut:
                        return bytes(data[:limit])
                    raise BodyTooLarge(f"the body is larger than the {limit:,} bytes that an output may have")
    except zlib.error as error:
        raise BodyBroken(f"the body cannot be unpacked: {error}") from error
    return bytes(data)


def value_of(content_type: str, data: bytes) -> dict[str, Any]:
    """`{body}`: parsed JSON, text, or base64 with `encoding` beside it.

    Raises:
        BodyBroken: The type is JSON, the body is not.
    """
    kind, charset = _content_type(content_type)
    if kind == "application/json" or kind.endswith(("+json", "/json")):
        if not data.strip():
            return {"body": None}
        try:
            return {"body": json.loads(data)}
        except (ValueError, RecursionError) as error:
            raise BodyBroken(f"the body is announced as {kind}, but it is not JSON: {error}") from error
    if charset or kind.startswith("text/") or any(word in kind for word in _TEXTUAL):
        return {"body": _decode(data, charset or "utf-8").replace("\0", "\ufffd")}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    return {"body": base64.b64encode(data).decode(), "encoding": "base64"} if "\0" in text else {"body": text}


async def _unpacked(response: httpx.Response, room: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces of at most `room` bytes, however much the sender packed into one."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"", "identity"}:
        async for piece in response.aiter_raw():
            yield piece
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise BodyBroken(f"the body is packed as {encoding}; only gzip and deflate are known")
    unpacker, whole = None, False
    async for packed in response.aiter_raw():
        rest = packed
        while rest:
            if unpacker is None:
                if whole and not rest.startswith(_GZIP_START):
                    return  # padding after the end
                unpacker = _unpacker(encoding, rest)
            yield unpacker.decompress(rest, room)
            await asyncio.sleep(0)
            rest, whole = unpacker.unconsumed_tail, unpacker.eof
            if whole:  # gzip allows several members in a row
                rest, unpacker = unpacker.unused_data, None
    if unpacker is not None:
        raise BodyBroken("the packed body ends too early")


def _unpacker(encoding: str, start: bytes) -> zlib._Decompress:
    if encoding != "deflate":
        return zlib.decompressobj(_GZIP)
    zlib_header = start[0] & 0x0F == zlib.DEFLATED  # some servers send deflate without zlib's header
    return zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)


def _content_type(text: str) -> tuple[str, str | None]:
    kind, *rest = (part.strip() for part in text.split(";"))
    charset = next((part[8:].strip("\"' ") for part in rest if part.lower().startswith("charset=")), None)
    return kind.lower(), charset


def _decode(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace")
    except (LookupError, ValueError):  # a name that Python does not know, or one of a codec that is no charset
        return data.decode("utf-8", "replace")

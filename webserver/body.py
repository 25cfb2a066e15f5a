"""Reading JSON bodies: bounded in size and depth, and nothing that Postgres could not store."""

from __future__ import annotations

import json
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from agentflow.errors import Problem
from agentflow.spec.limits import MAX_DEPTH, MAX_DIGITS
from webserver.errors import InvalidRequest, MalformedJson, TooLarge, UnsupportedMediaType

_JSON = ("application/json", "application/merge-patch+json")


def read_json(request: Request) -> Any:
    """The body; None when there is none.

    Raises:
        UnsupportedMediaType: It is something else than JSON.
        TooLarge: It is larger than the app allows.
        MalformedJson: It cannot be read, or is nested too deeply.
        InvalidRequest: It holds characters that cannot be stored.
    """
    return parse_body(request, read_bytes(request))


def read_bytes(request: Request) -> bytes:
    """The body as it came.

    Raises:
        TooLarge: It is larger than the app allows.
    """
    most = request.max_content_length
    try:
        data = request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise TooLarge(hint=f"at most {most} bytes") from error
    if request.content_length is None and most is not None and len(data) >= most:
        raise TooLarge(hint=f"less than {most} bytes")  # sent in chunks: werkzeug has cut it off without a word
    return data


def parse_body(request: Request, data: bytes) -> Any:
    """The JSON of a body that was read; None when there is none. Raises as `read_json`."""
    if not data:
        return None
    if request.mimetype not in _JSON:
        raise UnsupportedMediaType(
            f"The body is {request.mimetype or 'of no type'!r}.", hint="send `Content-Type: application/json`"
        )
    return parse_json(data)


def parse_json(data: bytes) -> Any:
    """A JSON document. Raises as `read_json`."""
    try:
        document = json.loads(data.decode(), parse_constant=_no_constant, parse_int=_short_int)
    except RecursionError as error:
        raise MalformedJson("The body is nested too deeply.", hint=f"at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise MalformedJson(f"The body is not JSON: {error}.") from error
    _check(document)
    return document


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def storable(text: str) -> bool:
    """Whether Postgres can keep a text: no NUL, no half of a surrogate pair."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _check(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise MalformedJson("The body is nested too deeply.", hint=f"at most {MAX_DEPTH} levels")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if not storable(value):
                    raise InvalidRequest([Problem("holds a NUL character or half a surrogate pair", "body")])
            elif isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level = below

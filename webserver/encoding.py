"""JSON as the API writes it, and gzip for clients that take it."""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import Any

from flask import Flask, Response, request
from flask.json.provider import JSONProvider

from webserver.offload import offload

SMALL = 1024  #: Bytes below which compressing saves nothing.
LARGE = 256 * 2**10  #: Bytes above which it would keep a gevent worker's other requests waiting.
_LEVEL = 5
_TYPES = ("application/json", "application/problem+json", "application/yaml", "text/")


class Json(JSONProvider):
    """Keys in our order, no blanks; ASCII, so that no text whatever breaks an answer."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """As text."""
        return json.dumps(obj, separators=(",", ":"), allow_nan=False, **kwargs)

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """From text."""
        return json.loads(s, **kwargs)


def init_encoding(app: Flask) -> None:
    """Write JSON our way and compress answers."""
    app.json = Json(app)
    app.after_request(_compress)


def _compress(response: Response) -> Response:
    if response.is_streamed or not (response.mimetype or "").startswith(_TYPES):
        return response
    response.vary.add("Accept-Encoding")
    data = b"" if response.direct_passthrough else response.get_data()
    if len(data) < SMALL or "Content-Encoding" in response.headers or request.accept_encodings.quality("gzip") <= 0:
        return response
    work = partial(gzip.compress, data, _LEVEL, mtime=0)
    response.set_data(offload(work) if len(data) > LARGE else work())
    response.headers["Content-Encoding"] = "gzip"
    return response

"""ETags: the published version's number for workflows, a hash for what never changes under its address.

Whatever changes a workflow takes `If-Match`, and answers 412 when somebody has published since.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Response, current_app, request
from sqlalchemy import Connection

from agentflow import catalog
from webserver.access import current_principal
from webserver.errors import InvalidRequest

T = TypeVar("T")

_NUMBER = re.compile(r'(?:W/)?"(\d{1,9})"')


def version_etag(version: int) -> dict[str, str]:
    """The header that names a workflow's published version."""
    return {"ETag": f'"{version}"'}


def expected_version() -> int | None:
    """The version that `If-Match` asks for; None without it, or for `*`.

    Raises:
        InvalidRequest: It is no version.
    """
    given = request.headers.get("If-Match", "*").strip()
    if given == "*":
        return None
    found = _NUMBER.fullmatch(given)
    if found is None:
        raise InvalidRequest.at("header.If-Match", f"{given[:100]!r} is not the ETag of a workflow")
    return int(found[1])


def if_match(name: str, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """The same work on a workflow, done only if `If-Match` names its published version, or there is none.

    Raises:
        InvalidRequest: The header is no version. And the work, then, StaleVersion: somebody has published since.
    """
    base, workspace = expected_version(), current_principal().workspace
    if base is None:
        return work

    def checked(connection: Connection) -> T:
        catalog.require_version(connection, name, base, workspace=workspace)
        return work(connection)

    return checked


def conditional(document: Any, etag: str) -> Response:
    """An answer that the client may keep and ask for again by its ETag; 304 when it has it."""
    response = current_app.json.response(document)
    assert isinstance(response, Response)
    response.set_etag(etag)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    response.make_conditional(request)
    return response

"""The one table from errors to answers: RFC 9457 problem documents."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, json, request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from agentflow.db.engine import is_disconnect, is_retriable
from agentflow.errors import AgentFlowError, StaleVersion
from webserver.errors import Unavailable, WebError
from webserver.paths import loggable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:agentflow:problem:"

#: Status by the word of the error; a WebError brings its own. A word that is missing is a defect of the server: 500.
STATUS = {
    "bundle-damaged": 422,
    "bundle-too-large": 413,
    "conflict": 409,
    "database-not-ready": 503,
    "database-unreachable": 503,
    "executor-unknown": 422,
    "import-failed": 422,
    "invalid-params": 422,
    "invalid-spec": 422,
    "invalid-template": 422,
    "invalid-trigger": 422,
    "node-type-unknown": 422,
    "node-type-unusable": 422,
    "not-found": 404,
    "object-missing": 404,
    "object-store-unreachable": 503,
    "owned-by-file": 409,
    "paused": 409,
    "precondition-failed": 412,
    "queue-full": 429,
    "replayed": 409,
    "signature-refused": 401,
    "template": 422,
    "usage": 422,
}
_QUERY_CANCELED = "57014"


class FieldProblem(BaseModel):
    """One thing that is wrong."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Place in the request or document: `body.params.city`, `nodes.clean.needs[0]`")
    message: str
    hint: str | None = None
    line: int | None = None
    column: int | None = None


class ProblemDocument(BaseModel):
    """Why a request was not done (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:agentflow:problem:` and a stable word")
    title: str
    status: int
    detail: str
    hint: str | None = Field(None, description="What to do about it")
    errors: list[FieldProblem] | None = Field(None, description="Every wrong field")


def status_of(error: AgentFlowError) -> int:
    """The HTTP status of an error."""
    return error.status if isinstance(error, WebError) else STATUS.get(error.word, 500)


def problem(status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The answer that carries an error's document."""
    body = dict(document) | {"type": PREFIX + document["type"], "status": status}
    return Response(json.dumps(body), status, dict(headers or {}), content_type=MEDIA_TYPE)


def _told(error: AgentFlowError) -> Response:
    status = status_of(error)
    if status >= 500:
        log.error("request_failed", extra={"error": error.word, "detail": error.message}, exc_info=error)
    headers = error.headers if isinstance(error, WebError) else {}
    if isinstance(error, StaleVersion):
        headers = {"ETag": f'"{error.current}"'}
    return problem(status, error.as_document(), headers)


def _http(error: HTTPException) -> HTTPException | Response:
    code = error.code
    if code is None or code < 400:
        return error  # redirects are exceptions too
    title = error.name
    word = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    detail = str(error.description or title)
    if code == 404:
        detail = f"There is nothing at {request.path[:200]}."
    kept = {name: value for name, value in error.get_headers() if name.lower() in ("allow", "retry-after")}
    return problem(code, {"type": word, "title": f"{title}.", "detail": detail}, kept)


def _database(error: DBAPIError) -> Response:
    if is_disconnect(error) or is_retriable(error):
        return _told(Unavailable("The database does not answer.", hint="try again in a moment"))
    if getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED:
        return _told(Unavailable("The database took too long.", hint="ask for less: a filter, a smaller page"))
    return _unexpected(error)


def _busy(_error: PoolTimeout) -> Response:
    return _told(Unavailable("Too many requests at once.", hint="try again in a moment"))


def _unexpected(error: Exception) -> Response:
    log.error("request_crashed", extra={"method": request.method, "path": loggable(request.path)}, exc_info=error)
    return problem(
        500,
        {
            "type": "internal",
            "title": "AgentFlow has a defect here.",
            "detail": "The server failed to answer.",
            "hint": "its log has the traceback: please report it",
        },
    )


def init_problems(app: Flask) -> None:
    """Answer every error with a problem document."""
    app.register_error_handler(AgentFlowError, _told)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(DBAPIError, _database)
    app.register_error_handler(PoolTimeout, _busy)
    app.register_error_handler(Exception, _unexpected)


def responses(*statuses: int) -> dict[Any, Any]:
    """For OpenAPI: what an operation answers beside success."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {str(status): {"content": {MEDIA_TYPE: {"schema": schema}}} for status in sorted(statuses)}

"""What the OpenAPI document says of an operation beside its schemas: who may call it, with what, and how it refuses.

Everything here follows from the view's mark, its method and its arguments; only what a use case refuses (409, 412) is
said at the view. Tests compare every answer they get with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from flask_openapi3.models.data_type import DataType
from flask_openapi3.models.parameter import Parameter
from flask_openapi3.models.parameter_in_type import ParameterInType
from flask_openapi3.models.schema import Schema

from webserver.access import Access
from webserver.auth.cookies import CSRF_HEADER, PLAIN_SESSION, SECURE_SESSION

Security = list[dict[str, list[str]]]

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of `POST /auth/login` or `/auth/refresh`.",
    },
    "api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key of `POST /api-keys`; it can do what its scopes allow, in its workspace.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": PLAIN_SESSION,
        "description": f"The cookie of `POST /auth/session` or `/auth/link`; over https it is named `{SECURE_SESSION}`.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "Beside the session's cookie, for everything that is no read: the value of the cookie"
        " `agentflow_csrf`.",
    },
}
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Whatever is asked: an unknown name in the query string, too often, a defect, a database that is away.
_ALWAYS = (422, 429, 500, 503)
#: What cannot be read, is too large, or is not JSON.
_BODY = (400, 413, 415)


def security(access: Access, method: str) -> Security:
    """The credentials that are taken: one of these."""
    if access.anonymous:
        return []
    session: dict[str, list[str]] = {"session": []} if method.upper() in _READS else {"session": [], "csrf": []}
    return [{"token": []}, {"api-key": []}, session]


def refusals(access: Access, view: Callable[..., Any], rule: str, own: Iterable[int]) -> list[int]:
    """Statuses of the problem documents that an operation may answer; `own`: those that its use case has."""
    found = {*_ALWAYS, *own}
    if not access.anonymous:
        found |= {401, 403, 404}  # 404: `X-Workspace` names one that is not there, or not the caller's
    if "<" in rule:
        found.add(404)
    if inspect.signature(view).parameters.keys() & {"body", "raw"}:
        found |= {*_BODY}
    return sorted(found)


def headers(access: Access, own: Iterable[int], *, once: bool) -> list[Parameter]:
    """Headers that an operation reads; `once`: it takes an Idempotency-Key."""
    found = []
    if not access.anonymous:
        found.append(_header("X-Workspace", "The workspace, if it is not `default` or the key's own."))
    if 412 in own:
        found.append(_header("If-Match", 'The ETag of the workflow, as in `"3"`; 412 if another version is published.'))
    if once:
        found.append(_header("Idempotency-Key", "Sent again within 24 hours, the request gets the first one's answer."))
    return found


def _header(name: str, description: str) -> Parameter:
    schema = Schema(type=DataType.STRING)
    return Parameter(name=name, param_in=ParameterInType.HEADER, description=description, required=False, schema=schema)


def describe(access: Access, view: Callable[..., Any]) -> str:
    """The rest of a view's docstring, and what it asks of its caller."""
    rest = inspect.getdoc(view) or ""
    return "\n\n".join(filter(None, [rest.partition("\n")[2].strip(), _needs(access)]))


def _needs(access: Access) -> str:
    if access.anonymous:
        return "Needs no login."
    if access.instance_admin:
        return "Needs an administrator of the instance."
    if access.role is None:
        return "Needs a login."
    return f"Needs the role {access.role.value} in the workspace, or a higher one."

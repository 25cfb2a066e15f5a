"""Cookies of browsers, and what keeps other sites from using them.

The session's cookie cannot be read by scripts, and goes along with requests that our own pages make (SameSite=Strict).
A request that changes something must besides carry the session's CSRF token in a header, which other sites can neither
read nor send, and must not say that it comes from another origin.
"""

from __future__ import annotations

from datetime import timedelta

from flask import Request, Response

from agentflow.access.sessions import OpenSession
from agentflow.access.tokens import is_ours, read_token
from agentflow.keys import KeyRing
from agentflow.settings import Settings
from webserver.errors import Forbidden

CSRF_HEADER = "X-CSRF-Token"
CSRF_COOKIE = "agentflow_csrf"
PLAIN_SESSION = "agentflow_session"
SECURE_SESSION = "__Host-agentflow_session"  # no other host of the domain can set it
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class CsrfFailed(Forbidden):
    """The request does not prove that it comes from a page of ours."""

    word = "csrf"


def session_cookie(request: Request) -> str | None:
    """The session's token of a browser."""
    return request.cookies.get(SECURE_SESSION if request.is_secure else PLAIN_SESSION)


def set_cookies(response: Response, request: Request, token: str, csrf: str, lifetime: timedelta) -> None:
    """Log a browser in. Cookies over https are never sent without it."""
    seconds, secure = int(lifetime.total_seconds()), request.is_secure
    name = SECURE_SESSION if secure else PLAIN_SESSION
    response.set_cookie(name, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="Strict")
    response.set_cookie(CSRF_COOKIE, csrf, max_age=seconds, path="/", secure=secure, samesite="Strict")


def clear_cookies(response: Response, request: Request) -> None:
    """Let a browser forget."""
    for name, secret in ((PLAIN_SESSION, True), (SECURE_SESSION, True), (CSRF_COOKIE, False)):
        secure = request.is_secure or name == SECURE_SESSION
        response.delete_cookie(name, path="/", secure=secure, httponly=secret, samesite="Strict")


def check_csrf(request: Request, settings: Settings, ring: KeyRing, session: OpenSession) -> None:
    """Refuse a change that a page of another site may have sent with a cookie of ours.

    Raises:
        CsrfFailed: The token is missing or another session's, or the request names another origin.
    """
    if request.method in _SAFE:
        return
    check_origin(request, settings)
    token = read_token(request.headers.get(CSRF_HEADER, ""))
    if token is None or token.session != session.id or not is_ours(ring, "csrf", token, session.salt):
        raise CsrfFailed(
            "The CSRF token is missing or not this session's.",
            hint=f"send the cookie {CSRF_COOKIE} as the header {CSRF_HEADER}",
        )


def check_origin(request: Request, settings: Settings) -> None:
    """Refuse a request of a browser that says that another site's page sent it.

    Raises:
        CsrfFailed: It does.
    """
    origin = request.headers.get("Origin")
    own = {f"{request.scheme}://{request.host}", settings.base_url.rstrip("/")}
    if (origin is not None and origin not in own) or request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise CsrfFailed("The request comes from another site's page.", hint="AGENTFLOW_BASE_URL names our own")

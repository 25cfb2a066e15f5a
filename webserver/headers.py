"""Headers that protect people's browsers, and which other origins may call us: none, unless configured."""

from __future__ import annotations

from flask import Flask, Response, request

from agentflow.settings import Settings
from webserver.ops.requests import HEADER as REQUEST_ID

#: Pages: everything from here, no script or style within a page, in no frame.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
#: Data: a browser that shows it runs nothing, whatever it holds.
DATA_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_YEAR = 365 * 24 * 3600
_PREFLIGHT_AGE = 600  # seconds
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_ASKED = f"Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, X-API-Key, X-Workspace, {REQUEST_ID}"
_TOLD = f"ETag, Location, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, {REQUEST_ID}"


def init_headers(app: Flask, settings: Settings) -> None:
    """Must come before access is checked: a browser asks beforehand without credentials."""
    allowed = settings.allowed_origins

    @app.before_request
    def preflight() -> Response | None:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or request.headers.get("Origin") not in allowed:
            return None
        answer = Response(status=204)
        answer.headers["Access-Control-Allow-Methods"] = _METHODS
        answer.headers["Access-Control-Allow-Headers"] = _ASKED
        answer.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_AGE)
        return answer

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in _ALWAYS.items():
            response.headers.setdefault(name, value)
        page = response.mimetype == "text/html"
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY if page else DATA_POLICY)
        if request.path.startswith("/api/") and "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        if request.is_secure:
            response.headers.setdefault("Strict-Transport-Security", f"max-age={_YEAR}")
        _share(response, allowed)
        return response


def _share(response: Response, allowed: frozenset[str]) -> None:
    """Let the page of an allowed origin read the answer. Cookies are not for it: it sends a token or a key."""
    if not allowed:
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        return
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin in allowed:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _TOLD

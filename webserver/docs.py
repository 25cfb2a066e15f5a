"""The OpenAPI document and a page to read it with, which works offline."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from flask import Blueprint, Response, current_app, json, request, send_from_directory
from flask_openapi3.openapi import OpenAPI

from webserver.access import public
from webserver.auth.cookies import CSRF_COOKIE, CSRF_HEADER
from webserver.resource import PREFIX
from webserver.state import current_web

docs = Blueprint("docs", __name__)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>AgentFlow API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/api/docs/assets/css/swagger-ui.css"></head>
<body><div id="docs"></div>
<script src="/api/docs/assets/js/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script></body></html>
"""
_START = f"""const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
// Who is logged in here may try changes, too.
const prove = (asked) => {{
  const found = document.cookie.match(/(?:^|; ){CSRF_COOKIE}=([^;]+)/);
  if (found) asked.headers["{CSRF_HEADER}"] ??= found[1];
  return asked;
}};
SwaggerUIBundle({{
  url: "{PREFIX}/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null, tryItOutEnabled: false,
  requestInterceptor: prove,
}});
"""


@cache
def _assets() -> Path:
    found = find_spec("flask_openapi3_swagger")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "templates" / "swagger"


@docs.get(f"{PREFIX}/openapi.json")
@public
def openapi_json() -> Response:
    """The OpenAPI document."""
    parts = current_web().parts
    text = parts.get(__name__)
    if text is None:
        app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the documented way
        assert isinstance(app, OpenAPI)
        text = parts[__name__] = json.dumps(app.api_doc)
    response = Response(text, content_type="application/json")
    response.set_etag(hashlib.sha256(text.encode()).hexdigest()[:32])
    response.cache_control.no_cache = True
    response.make_conditional(request)
    return response


@docs.get("/api/docs")
@public
def docs_page() -> Response:
    """The page."""
    return Response(_PAGE, content_type="text/html; charset=utf-8")


@docs.get("/api/docs/start.js")
@public
def docs_start() -> Response:
    """What starts it: the policy allows no script within a page."""
    return Response(_START, content_type="text/javascript; charset=utf-8")


@docs.get("/api/docs/assets/<path:name>")
@public
def docs_asset(name: str) -> Response:
    """Style and script of the page, from the package that carries them."""
    return send_from_directory(_assets(), name, max_age=86400)

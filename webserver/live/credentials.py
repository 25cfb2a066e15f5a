"""What a connection proves itself with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentflow.settings import Settings
from webserver.live.clients import Credentials

#: What a client may prove itself with, as a header or, where a browser cannot set one, in `auth` of the connection.
_FROM_AUTH = {"token": "HTTP_AUTHORIZATION", "api_key": "HTTP_X_API_KEY", "workspace": "HTTP_X_WORKSPACE"}
CREDENTIALS = (*_FROM_AUTH.values(), "HTTP_COOKIE")


def is_ours(origin: str, environ: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a page of this origin is one that we serve."""
    own = f"{environ.get('wsgi.url_scheme')}://{environ.get('HTTP_HOST')}"
    return origin in (own, settings.base_url.rstrip("/"))


def read_credentials(environ: Mapping[str, Any], auth: object, settings: Settings) -> Credentials:
    """What a connection proves itself with; `auth` wins over headers.

    Cookies are for our own pages alone: an origin that may call us is to send a token or a key, and a page of another
    host of our domain would get the cookie along with it.
    """
    found = {name: str(environ[name]) for name in CREDENTIALS if environ.get(name)}
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and not is_ours(origin, environ, settings):
        found.pop("HTTP_COOKIE", None)
    if isinstance(auth, Mapping):
        for key, header in _FROM_AUTH.items():
            if isinstance(value := auth.get(key), str) and value.isprintable():
                found[header] = f"Bearer {value}" if key == "token" else value
    return tuple(sorted(found.items()))

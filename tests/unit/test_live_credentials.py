"""What a socket proves itself with."""

from __future__ import annotations

import pytest

from agentflow.settings import Settings
from webserver.live.credentials import read_credentials

SETTINGS = Settings(base_url="https://flow.example.org", cors_origins="https://wiki.example.org")
COOKIE = ("HTTP_COOKIE", "agentflow_session=x")


@pytest.mark.parametrize(
    ("origin", "with_cookie"),
    [
        (None, True),
        ("http://10.0.0.1:8080", True),
        ("https://flow.example.org", True),
        ("https://wiki.example.org", False),
    ],
)
def test_a_cookie_counts_only_from_our_own_pages(origin, with_cookie):
    environ = {"wsgi.url_scheme": "http", "HTTP_HOST": "10.0.0.1:8080", "HTTP_COOKIE": COOKIE[1]}
    if origin is not None:
        environ["HTTP_ORIGIN"] = origin
    found = read_credentials(environ, {"token": "t"}, SETTINGS)
    assert ("HTTP_AUTHORIZATION", "Bearer t") in found
    assert (COOKIE in found) is with_cookie

"""The pure parts of `http`: request, redirect and body."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib

import httpx
import pytest

from agentflow.nodes import http_body
from agentflow.nodes.base import NodeFailed
from agentflow.nodes.http import HttpConfig
from agentflow.nodes.http_body import BodyBroken, BodyTooLarge, value_of
from agentflow.nodes.http_exchange import first_request, redirected, shown


def config(**given):
    return HttpConfig.model_validate({"url": "https://api.example/v1", **given})


def response(body, encoding=None, piece=1000):
    headers = {"Content-Encoding": encoding} if encoding else {}

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self):
            for start in range(0, len(body), piece):
                yield body[start : start + piece]

    return httpx.Response(200, headers=headers, stream=Pieces(), request=httpx.Request("GET", "http://x"))


def read_body(response, limit, **given):
    return asyncio.run(http_body.read_body(response, limit, **given))


@pytest.mark.parametrize(
    ("statuses", "accepted", "refused"),
    [
        (None, [200, 204, 304, 399], [199, 400, 500]),
        ([404], [404], [200, 403, 405]),
        (["200-204", "500 - 503", 418], [200, 204, 418, 500, 503], [205, 417, 499, 504]),
    ],
)
def test_expect_takes_statuses_and_ranges(statuses, accepted, refused):
    given = config() if statuses is None else config(expect=statuses)
    assert all(given.accepts(status) for status in accepted)
    assert not any(given.accepts(status) for status in refused)


def test_the_query_is_added_to_that_of_the_address():
    request = first_request(config(url="https://x.org/a?q=1", query={"b": ["x y", 2], "c": True}))
    assert str(request.url) == "https://x.org/a?q=1&b=x+y&b=2&c=true"


def test_a_json_body_is_sent_as_json_also_when_it_is_null():
    request = first_request(config(method="POST", json={"ä": [1, None]}))
    assert json.loads(request.read()) == {"ä": [1, None]}
    assert request.headers["Content-Type"] == "application/json"
    assert first_request(config(method="POST", json=None)).read() == b"null"
    assert first_request(config(method="POST")).read() == b""


def test_a_text_body_is_sent_as_it_is_with_the_users_headers():
    request = first_request(config(method="PUT", body="grüße", headers={"Content-Type": "text/plain", "X-N": 5}))
    assert request.read() == "grüße".encode()
    assert (request.headers["Content-Type"], request.headers["X-N"]) == ("text/plain", "5")


def test_headers_of_the_user_replace_ours_whatever_their_case():
    request = first_request(config(headers={"user-agent": "mine ü"}))
    assert [value for name, value in request.headers.raw if name.lower() == b"user-agent"] == ["mine ü".encode()]


def test_a_login_in_the_address_becomes_a_header_and_is_not_shown():
    request = first_request(config(url="https://us%40er:p%3Aw@x.org/a?key=1"))
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"us@er:p:w").decode()
    assert request.url.userinfo == b""
    assert shown(request.url) == "https://x.org/a"
    assert shown(httpx.URL("https://u:p@x.org/a?key=1#f")) == "https://x.org/a"


def redirect(status, location, *, start="https://api.example/v1/a", **given):
    return redirected(first_request(config(url=start, **given)), status, location)


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
        ("PUT", 301, "PUT"),
        ("PUT", 303, "GET"),
        ("HEAD", 303, "HEAD"),
        ("GET", 302, "GET"),
    ],
)
def test_a_redirect_keeps_or_changes_method_and_body_as_browsers_do(method, status, then):
    request = redirect(status, "/next", method=method, json={"a": 1})
    assert request.method == then
    kept = then == method
    assert request.read() == (b'{"a":1}' if kept else b"")
    assert ("Content-Type" in request.headers) is kept
    assert request.headers.get("Content-Length") == ("7" if kept else None)


SECRETS = {"Authorization": "Bearer s", "Cookie": "s", "X-Api-Key": "s", "Host": "s", "Accept": "text/csv"}


@pytest.mark.parametrize(
    ("start", "location", "kept"),
    [
        ("https://a.example/x", "/y", True),
        ("https://a.example/x", "https://a.example:443/y", True),
        ("http://a.example/x", "https://a.example/y", True),
        ("https://a.example/x", "http://a.example/y", False),
        ("https://a.example/x", "https://a.example:8443/y", False),
        ("https://a.example/x", "https://b.example/y", False),
        ("https://a.example/x", "//b.example/y", False),
        ("https://a.example/x", "https://sub.a.example/y", False),
        ("http://a.example:8080/x", "https://a.example/y", False),
    ],
)
def test_a_redirect_to_another_server_carries_no_credentials(start, location, kept):
    headers = redirect(307, location, start=start, headers=SECRETS).headers
    assert headers["Accept"] == "text/csv"
    assert headers["Host"] != "s"
    for name in ("Authorization", "Cookie", "X-Api-Key"):
        assert (name in headers) is kept


def test_a_login_in_a_redirect_is_dropped():
    request = redirect(302, "https://u:p@b.example/")
    assert "Authorization" not in request.headers
    assert request.url.userinfo == b""


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x.org/", "gopher://x", "javascript:alert(1)"])
def test_a_redirect_to_something_else_than_a_web_address_is_refused(location):
    with pytest.raises(NodeFailed, match="redirects to a ") as caught:
        redirect(302, location)
    assert caught.value.kind == "RedirectRefused"


def test_a_redirect_to_a_broken_address_is_told():
    with pytest.raises(NodeFailed, match="redirects to a broken address"):
        redirect(302, "https://[::1")


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        ("application/json", b'{"a": [1, null]}', {"body": {"a": [1, None]}}),
        ("application/json; charset=utf-8", "\ufeff5".encode(), {"body": 5}),
        ("application/problem+json", b'"x"', {"body": "x"}),
        ("APPLICATION/JSON", b" \n", {"body": None}),
        ("application/json", b"", {"body": None}),
        ("text/plain", "grüße".encode(), {"body": "grüße"}),
        ("text/html; charset=iso-8859-1", "grüße".encode("latin-1"), {"body": "grüße"}),
        ('text/html; charset="ISO-8859-1"', "ü".encode("latin-1"), {"body": "ü"}),
        ("text/html; charset=no-such", "ü".encode(), {"body": "ü"}),
        ("text/html; charset=hex", "ü".encode(), {"body": "ü"}),
        ("text/plain", b"a\xffb\0c", {"body": "a\ufffdb\ufffdc"}),
        ("application/xml", b"<a/>", {"body": "<a/>"}),
        ("application/x-ndjson", b"1\n2\n", {"body": "1\n2\n"}),
        ("", b"just text", {"body": "just text"}),
        ("image/png", b"\x89PNG\xff", {"body": base64.b64encode(b"\x89PNG\xff").decode(), "encoding": "base64"}),
        ("application/octet-stream", b"a\0b", {"body": "YQBi", "encoding": "base64"}),
    ],
)
def test_a_body_becomes_json_text_or_base64_by_its_type(kind, data, value):
    assert value_of(kind, data) == value


@pytest.mark.parametrize("data", [b"{broken", b"\xff\xfe\xfd", b"[" * 200_000])
def test_a_body_announced_as_json_that_is_none_is_told(data):
    with pytest.raises(BodyBroken, match="announced as application/json, but it is not JSON"):
        value_of("application/json", data)


def deflate_raw(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


TEXT = b"0123456789" * 1000


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("GZIP", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT[:5000]) + gzip.compress(TEXT[5000:])),
        ("gzip", gzip.compress(TEXT) + b"\0" * 100),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", deflate_raw(TEXT)),
    ],
)
def test_a_packed_body_is_unpacked_however_it_arrives(encoding, packed, piece):
    assert read_body(response(packed, encoding, piece), len(TEXT)) == TEXT


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_body_over_the_limit_is_refused_or_cut(encoding):
    body = gzip.compress(TEXT) if encoding else TEXT
    with pytest.raises(BodyTooLarge, match=r"larger than the 9,999 bytes"):
        read_body(response(body, encoding), len(TEXT) - 1)
    assert read_body(response(body, encoding), 15, cut=True) == TEXT[:15]


def test_a_bomb_is_not_unpacked_beyond_the_limit():
    import tracemalloc

    bomb = gzip.compress(bytes(200 << 20), compresslevel=6)
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        read_body(response(bomb, "gzip", piece=1 << 20), 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", b"not gzip at all", "cannot be unpacked"),
        ("gzip", gzip.compress(TEXT)[:-20], "ends too early"),
        ("br", b"x", "packed as br; only gzip and deflate are known"),
        ("gzip, gzip", b"x", "only gzip and deflate are known"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_told(encoding, body, message):
    with pytest.raises(BodyBroken, match=message):
        read_body(response(body, encoding), 1 << 20)

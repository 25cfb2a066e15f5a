"""The `http` node against a real server on this machine, alone in a process and beside others in an I/O lane."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from agentflow.nodes import http_client, http_guard
from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.http import HttpConfig, HttpNode


@pytest.fixture
def server(start_web_server):
    return start_web_server()


class Alone:
    """As a process of its own runs it."""

    def ask(self, config, context):
        return HttpNode().run(config, context)


class Lane:
    """As an I/O lane runs it: one event loop for many attempts."""

    def __init__(self, runner):
        self.runner = runner

    def ask(self, config, context):
        return self.runner.run(HttpNode().arun(config, context))


@pytest.fixture
def lane():
    """A lane; no connection outlives its test."""
    with asyncio.Runner() as runner:
        yield Lane(runner)
        runner.run(HttpNode().aclose())


@pytest.fixture(params=["alone", "lane"])
def ask(request):
    """Run the node; every rule holds on both ways."""
    return asker(Alone() if request.param == "alone" else request.getfixturevalue("lane"))


def asker(way):
    return lambda url, **given: way.ask(*asked(url, **given))


def asked(url, *, private=True, output_max=1 << 20, log=None, **config):
    context = NodeContext(allow_private_http=private, output_max=output_max, **({"log": log} if log else {}))
    return HttpConfig.model_validate({"url": url, **config}), context


@pytest.fixture
def names(monkeypatch):
    """Let names lead to addresses; returns the table (name -> list of answers, one list per lookup)."""
    table = {}
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in table:
            return real(host, port, *args, **kwargs)
        answers = table[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def loopback_counts_as_public(monkeypatch):
    """So that the guard is on and the test server can be reached: only 127.0.0.2 to .255 stay refused."""
    real = http_guard.why_refused
    monkeypatch.setattr(http_guard, "why_refused", lambda text: None if text == "127.0.0.1" else real(text))


def test_a_json_answer_is_parsed_and_headers_have_small_letters(ask, server):
    answer = ask(server.url("json"))
    assert (answer["status"], answer["body"]) == (200, {"city": "Berlin"})
    assert (answer["headers"]["x-test"], answer["headers"]["content-type"]) == ("a", "application/json")
    assert set(answer) == {"status", "headers", "body"}
    json.dumps(answer)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_method_query_headers_and_body_reach_the_server(ask, server, method):
    ask(server.url("text"), method=method, query={"a": [1, "ü"]}, headers={"X-Key": "k"}, json={"n": 1})
    command, path, headers, body, _ = server.asked[0]
    assert (command, path, headers["X-Key"], body) == (method, "/text?a=1&a=%C3%BC", "k", b'{"n":1}')
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


def test_head_has_no_body_even_of_json(ask, server):
    assert ask(server.url("json"), method="HEAD")["body"] is None


def test_a_packed_answer_is_unpacked(ask, server):
    assert ask(server.url("gzip"))["body"] == "unpacked"


def test_connections_of_a_lane_are_kept_for_the_next_attempt(lane, server):
    ask = asker(lane)
    ask(server.url("text"))
    ask(server.url("json"))
    assert len({port for *_, port in server.asked}) == 1


def test_a_lane_serves_many_attempts_at_once(lane, server):
    async def all_at_once():
        node, (config, context) = HttpNode(), asked(server.url("json"))
        return await asyncio.gather(*(node.arun(config, context) for _ in range(200)))

    assert [answer["body"]["city"] for answer in lane.runner.run(all_at_once())] == ["Berlin"] * 200


def test_a_slow_name_server_holds_up_its_own_attempt_only(lane, server, monkeypatch):
    real, hang = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host, *args, **kwargs):
        if host == "slow.example":
            hang.wait(20)
        return real("127.0.0.1" if host.endswith(".example") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def both():
        slow = asyncio.create_task(HttpNode().arun(*asked(server.url("text", "slow.example"))))
        quick = await HttpNode().arun(*asked(server.url("text", "quick.example")))
        done = slow.done()
        hang.set()
        return quick, done, await slow

    quick, slow_was_done, slow = lane.runner.run(both())
    assert (quick["body"], slow_was_done, slow["body"]) == ("hello", False, "hello")


def test_the_connection_of_a_cancelled_attempt_is_not_kept(lane, server):
    async def cancelled():
        task = asyncio.create_task(HttpNode().arun(*asked(server.url("silence"))))
        await asyncio.to_thread(server.silent.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(http_client.client(allow_private=True)._idle)

    assert lane.runner.run(cancelled()) == 0


def test_cookies_do_not_pass_from_one_attempt_to_the_next(ask, server):
    ask(server.url("cookie"))
    ask(server.url("text"))
    assert "Cookie" not in server.asked[1][2]


def test_proxies_of_the_environment_are_ignored(ask, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ask(server.url("text"))["status"] == 200


def test_an_unexpected_status_fails_with_the_beginning_of_the_body(ask, server):
    with pytest.raises(NodeFailed) as caught:
        ask(server.url("error?key=secret"))
    message = str(caught.value)
    assert caught.value.kind == "HttpStatus"
    assert f"GET {server.url('error')} answered 503 Service Unavailable, expected 200-399" in message
    assert "the body begins: the database is down xxx" in message
    assert "secret" not in message
    assert len(message) < 1000


def test_an_expected_status_is_a_success(ask, server):
    assert ask(server.url("error"), expect=[200, "500-503"])["status"] == 503


def test_what_was_asked_and_answered_is_logged_without_the_query(ask, server):
    lines = []
    ask(server.url("redirect?to=/text"), log=lambda text, **_: lines.append(text))
    assert [line.split(",")[0] for line in lines] == [
        f"GET {server.url('redirect')}: 302 Found",
        f"GET {server.url('text')}: 200 OK",
    ]


def test_redirects_are_followed(ask, server):
    assert ask(server.url("redirect?to=/redirect?to=/text"))["body"] == "hello"


def test_a_loop_of_redirects_ends_after_ten(ask, server):
    with pytest.raises(NodeFailed, match="more than 10 redirects") as caught:
        ask(server.url("loop"))
    assert caught.value.kind == "TooManyRedirects"
    assert len(server.asked) == 11


def test_a_redirect_without_a_location_is_an_answer(ask, server):
    assert ask(server.url("no-location"))["status"] == 304


def test_credentials_do_not_follow_a_redirect_to_another_server(ask, server, start_web_server):
    other = start_web_server()
    url = server.url(f"redirect?to={other.url('text')}").replace("http://", "http://user:pass@")
    ask(url, headers={"X-Api-Key": "k", "Accept": "text/plain"})
    assert {"Authorization", "X-Api-Key"} <= set(server.asked[0][2])
    assert not {"Authorization", "X-Api-Key"} & set(other.asked[0][2])
    assert other.asked[0][2]["Accept"] == "text/plain"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_refused_without_the_setting(ask, server, host):
    with pytest.raises(NodeFailed, match="AGENTFLOW_ALLOW_PRIVATE_HTTP=true") as caught:
        ask(server.url("text", host), private=False)
    assert caught.value.kind == "AddressRefused"
    assert server.asked == []


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2/x", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://10.0.0.1:8080/",
     "http://0x7f.2/", "//192.168.0.1/x"],
)  # fmt: skip
def test_a_redirect_to_the_inside_is_refused(ask, server, loopback_counts_as_public, target):
    with pytest.raises(NodeFailed, match="which http nodes may not reach"):
        ask(server.url(f"redirect?to={target}"), private=False)
    assert len(server.asked) == 1


def test_a_redirect_to_a_name_that_leads_inside_is_refused(ask, server, loopback_counts_as_public, names):
    names["intra.example"] = [["10.1.2.3"]]
    with pytest.raises(NodeFailed, match=r"intra\.example leads to 10\.1\.2\.3 \(private network\)"):
        ask(server.url("redirect?to=http://intra.example/"), private=False)


def test_a_name_is_looked_up_once_and_the_checked_address_is_used(lane, server, loopback_counts_as_public, names):
    ask = asker(lane)
    # Given a name server that answers with a public address first and a private one ever after
    answers = names["rebind.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    # Then the connection goes to the first answer, with the name as Host
    assert ask(server.url("text", "rebind.example"), private=False)["body"] == "hello"
    assert answers == [["127.0.0.2"]]
    assert server.asked[0][2]["Host"] == f"rebind.example:{server.server_port}"
    # and a new connection, which looks again, is refused
    lane.runner.run(HttpNode().aclose())
    with pytest.raises(NodeFailed, match=r"leads to 127\.0\.0\.2"):
        ask(server.url("text", "rebind.example"), private=False)


def test_a_connection_opened_with_the_setting_is_not_used_without_it(ask, server):
    ask(server.url("text"))
    with pytest.raises(NodeFailed, match="may not reach"):
        ask(server.url("text"), private=False)


def test_the_next_address_is_tried_when_one_does_not_answer(ask, server, names):
    names["two.example"] = [["127.0.0.3", "127.0.0.1"]]
    assert ask(server.url("text", "two.example"), timeout="6s")["body"] == "hello"


def test_a_refused_connection_is_told(ask, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NodeFailed, match=rf"GET http://127\.0\.0\.1:{port}/: Connection refused") as caught:
        ask(f"http://127.0.0.1:{port}/")
    assert caught.value.kind == "ConnectError"


def test_plain_http_on_an_https_address_is_told(ask, server):
    with pytest.raises(NodeFailed, match="SSL") as caught:
        ask(server.url("text").replace("http:", "https:"))
    assert caught.value.kind == "ConnectError"


@pytest.mark.parametrize("path", ["silence", "drip-headers", "drip-body"])
def test_the_timeout_holds_for_the_whole_exchange(ask, server, path):
    began = time.monotonic()
    with pytest.raises(NodeFailed, match="took longer than its timeout of 300ms") as caught:
        ask(server.url(path), timeout="300ms")
    assert caught.value.kind == "Timeout"
    assert 0.3 <= time.monotonic() - began < 5
    assert path == "silence" or server.dripped > 1


def test_the_timeout_covers_a_server_that_does_not_read(ask, server):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(NodeFailed, match="took longer than its timeout of 300ms"):
            ask(f"http://127.0.0.1:{deaf.getsockname()[1]}/", method="POST", body="x" * (32 << 20), timeout="300ms")
        assert time.monotonic() - began < 5


def test_the_timeout_holds_over_all_redirects_together(ask, server):
    with pytest.raises(NodeFailed, match="took longer than its timeout"):
        ask(server.url("redirect?to=/redirect?to=/silence"), timeout="300ms")


def test_an_endless_body_is_cut_off_at_the_limit(ask, server):
    with pytest.raises(NodeFailed, match="the body is larger than the 100,000 bytes") as caught:
        ask(server.url("endless"), output_max=100_000)
    assert caught.value.kind == "BodyTooLarge"


def test_an_endless_body_of_an_error_does_not_hold_the_node(ask, server):
    with pytest.raises(NodeFailed, match="answered 200 OK, expected 404; the body begins: xxx"):
        ask(server.url("endless"), expect=[404])


@pytest.mark.parametrize(
    ("path", "message", "kind"),
    [
        ("bad-json", "announced as application/json, but it is not JSON", "BodyBroken"),
        ("short", "peer closed connection without sending complete message body", "RemoteProtocolError"),
        ("garbage", "illegal status line", "RemoteProtocolError"),
    ],
)
def test_a_broken_answer_is_told(ask, server, path, message, kind):
    with pytest.raises(NodeFailed, match=message) as caught:
        ask(server.url(path))
    assert caught.value.kind == kind


def test_an_aborted_exchange_does_not_spoil_the_next(ask, server):
    for _ in range(3):
        with pytest.raises(NodeFailed):
            ask(server.url("endless"), output_max=1000)
        assert ask(server.url("text"))["body"] == "hello"


@pytest.fixture
def tls_server(server, tmp_path, monkeypatch):
    """The server behind TLS, with a certificate for `secure.example` that the client trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=secure.example",
         "-addext", "subjectAltName=DNS:secure.example", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.server_names = []
    context.sni_callback = lambda _, name, __: server.server_names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return server


def test_tls_names_the_server_though_the_connection_goes_to_an_address(ask, tls_server, names):
    names["secure.example"] = [["127.0.0.1"]]
    url = tls_server.url("json", "secure.example").replace("http:", "https:")
    assert ask(url)["body"] == {"city": "Berlin"}
    assert tls_server.server_names == ["secure.example"]


def test_a_certificate_for_another_name_is_refused(ask, tls_server, names):
    names["other.example"] = [["127.0.0.1"]]
    with pytest.raises(NodeFailed, match=r"certificate is not valid for 'other\.example'") as caught:
        ask(tls_server.url("json", "other.example").replace("http:", "https:"))
    assert caught.value.kind == "ConnectError"
    assert tls_server.asked == []

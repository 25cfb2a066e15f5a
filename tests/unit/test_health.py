"""The health endpoint over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from agentflow import health
from agentflow.errors import SettingsError
from agentflow.health import Check, HealthServer


class Probe:
    """A readiness whose answer the test sets."""

    def __init__(self) -> None:
        self.asked = 0
        self.checks = [Check("database", ok=True), Check("scheduler", ok=False, detail="<0> alive")]

    def __call__(self) -> list[Check]:
        self.asked += 1
        return self.checks


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def server(probe: Probe) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, probe)
    server.start()
    yield server
    server.stop()


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=5)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply, reply.read()
    finally:
        connection.close()


def test_alive_says_nothing_about_readiness(server: HealthServer, probe: Probe) -> None:
    reply, body = ask(server, "/healthz?x=1")
    assert (reply.status, json.loads(body)) == (200, {"status": "alive"})
    assert probe.asked == 0


def test_one_failed_check_is_503(server: HealthServer) -> None:
    reply, body = ask(server, "/readyz")
    assert reply.status == 503
    assert json.loads(body)["checks"][1] == {"name": "scheduler", "ok": False, "detail": "<0> alive"}


def test_all_checks_good_is_200(server: HealthServer, probe: Probe) -> None:
    probe.checks = [Check("database", ok=True)]
    assert ask(server, "/readyz")[0].status == 200


def test_many_probes_ask_once(server: HealthServer, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CACHED", 60)
    for _ in range(5):
        ask(server, "/readyz")
    assert probe.asked == 1


def test_the_page_for_people_escapes_what_it_shows(server: HealthServer) -> None:
    reply, body = ask(server, "/")
    assert reply.status == 200
    assert b"not ready" in body
    assert b"&lt;0&gt; alive" in body


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("POST", "/readyz", 501)])
def test_everything_else_is_refused(server: HealthServer, method: str, path: str, status: int) -> None:
    assert ask(server, path, method)[0].status == status


def test_head_has_no_body(server: HealthServer) -> None:
    reply, body = ask(server, "/healthz", "HEAD")
    assert (reply.status, body) == (200, b"")


def test_a_taken_port_is_named(probe: Probe) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        port = rival.getsockname()[1]
        with pytest.raises(SettingsError, match=f"Port {port} "):
            HealthServer("127.0.0.1", port, probe)


def test_a_server_that_never_started_can_be_stopped(probe: Probe) -> None:
    HealthServer("127.0.0.1", 0, probe).stop()

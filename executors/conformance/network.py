"""Nodes that wait for the network: alone in a process or many to a process, the same rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from agentflow.workload import Outcome, Started, Workload
from executors.conformance.harness import GRACE, WAIT, Harness, WithHarness

MIB: Final = 2**20
SECRET: Final = "t0ken/with+signs&more"  # noqa: S105 - a value to look for


class SlowServer(ThreadingHTTPServer):
    """Answers `/slow` when told to, everything else at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = threading.Event()  #: Lets `/slow` answer.
        self._changed = threading.Condition()
        self._waiting: dict[str, int] = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str) -> str:
        """An address of this server."""
        return f"http://127.0.0.1:{self.server_port}{path}"

    def came(self, query: str, port: int) -> None:
        """A request for `/slow` is here."""
        with self._changed:
            self._waiting[query] = port
            self._changed.notify_all()

    def wait_for(self, query: str, timeout: float = WAIT) -> int:
        """Wait until `/slow?<query>` is asked for; the client's port."""
        with self._changed:
            assert self._changed.wait_for(lambda: query in self._waiting, timeout), f"nobody asked for {query}"
            return self._waiting[query]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/slow":
            self.server.came(query, self.client_address[1])
            self.server.gate.wait(WAIT * 2)
        size = int(query) if path == "/big" else 0
        echo = self.headers.get("X-Key", "hello") if path == "/echo" else "hello"
        body = b"x" * size or echo.encode()
        self.send_response(500 if path == "/broken" else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class NetworkNodes(WithHarness):
    """The `http` node against a server of this machine."""

    @pytest.fixture
    def server(self) -> Iterator[SlowServer]:
        """A server of the test's own."""
        server = SlowServer()
        yield server
        server.gate.set()
        server.shutdown()
        server.server_close()

    @pytest.fixture
    def ask(self, harness: Harness, server: SlowServer) -> Callable[..., Workload]:
        """Makes a workload that asks the server for a path."""

        def make(path: str, *, config: dict[str, Any] | None = None, **fields: Any) -> Workload:
            limits = {"allow_private_http": True} | fields.pop("limits", {})
            return harness.workload("http", {"url": server.url(path)} | (config or {}), limits=limits, **fields)

        return make

    def test_an_answer_is_the_output(self, harness: Harness, ask: Callable[..., Workload]) -> None:
        workload = ask("/hello")
        result = harness.run(workload)
        assert (result.output["status"], result.output["body"]) == (200, "hello")
        assert isinstance(result.events[0], Started)
        assert {event.token for event in result.events} == {workload.token}
        assert "200 OK" in result.text

    def test_an_error_fails_its_own_node_only(self, harness: Harness, ask: Callable[..., Workload]) -> None:
        broken, *others = [ask("/broken"), ask("/hello"), ask("/hello")]
        harness.submit(broken, *others)
        result, *rest = harness.wait_finished([broken, *others])
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert result.finished.error.type == "HttpStatus"
        assert [other.output["body"] for other in rest] == ["hello", "hello"]

    def test_a_wrong_config_of_a_waiting_node_is_a_failure(
        self, harness: Harness, ask: Callable[..., Workload]
    ) -> None:
        error = harness.run(ask("/hello", config={"methd": "GET"})).finished.error
        assert error is not None
        assert error.type == "ConfigInvalid"
        assert "methd" in error.message

    def test_a_waiting_node_is_ended_by_its_timeout(
        self, harness: Harness, server: SlowServer, ask: Callable[..., Workload]
    ) -> None:
        begin = time.monotonic()
        late, patient = ask("/slow?late", limits={"timeout": 0.3}), ask("/slow?patient")
        harness.submit(late, patient)
        finished = harness.wait_finished([late])[0].finished
        assert finished.outcome is Outcome.FAILED
        assert finished.error is not None
        assert finished.error.type == "Timeout"
        assert "0.3" in finished.error.message
        assert time.monotonic() - begin < 0.3 + GRACE + 5
        server.gate.set()
        assert harness.wait_finished([patient])[0].output["body"] == "hello"

    def test_cancel_ends_a_waiting_node_and_leaves_the_others_alone(
        self, harness: Harness, server: SlowServer, ask: Callable[..., Workload]
    ) -> None:
        cancelled, *others = [ask(f"/slow?{number}") for number in range(3)]
        harness.submit(cancelled, *others)
        for number in range(3):
            server.wait_for(str(number))
        harness.executor.cancel([cancelled.attempt_id])
        assert harness.wait_finished([cancelled], GRACE + 5)[0].finished.outcome is Outcome.CANCELLED
        server.gate.set()
        assert [result.output["status"] for result in harness.wait_finished(others)] == [200, 200]

    def test_kill_of_the_process_loses_the_attempt_and_work_goes_on(
        self, harness: Harness, server: SlowServer, ask: Callable[..., Workload]
    ) -> None:
        if not self.local_processes:
            pytest.skip("attempts are not processes of this machine")
        workload = ask("/slow?victim")
        harness.submit(workload)
        _kill_owner_of(server.wait_for("victim"))
        finished = harness.wait_finished([workload])[0].finished
        assert finished.outcome is Outcome.LOST
        assert finished.started_at is not None
        assert harness.run(ask("/hello")).output["status"] == 200

    def test_a_body_over_the_limit_fails_and_one_within_arrives_whole(
        self, harness: Harness, ask: Callable[..., Workload]
    ) -> None:
        large, fitting, small = ask(f"/big?{64 * MIB}"), ask(f"/big?{8 * MIB}"), ask("/hello")
        harness.submit(large, fitting, small)
        results = harness.wait_finished([large, fitting, small])
        assert results[0].finished.outcome is Outcome.FAILED
        assert results[0].finished.error is not None
        assert results[0].finished.error.type == "BodyTooLarge"
        assert len(results[1].output["body"]) == 8 * MIB
        assert results[2].output["body"] == "hello"

    def test_secrets_of_waiting_nodes_reach_nobody_else(
        self, harness: Harness, server: SlowServer, ask: Callable[..., Workload]
    ) -> None:
        config = {"headers": {"X-Key": "{{ secrets.KEY }}"}}
        slow = ask("/slow?secret", config=config, secrets={"KEY": SECRET})
        harness.submit(slow)
        server.wait_for("secret")
        if self.local_processes:
            shown = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]
            assert [path for path in shown if SECRET.encode() in _read(path)] == []
        echoed = ask("/echo", config=config | {"expect": [404]}, secrets={"KEY": SECRET})
        returned = ask("/echo", config=config, secrets={"KEY": SECRET})
        stranger = ask("/echo", config=config)
        harness.submit(echoed, returned, stranger)
        failed, masked, unknown = harness.wait_finished([echoed, returned, stranger])
        assert failed.finished.error is not None
        assert SECRET not in failed.text + failed.finished.error.model_dump_json()
        assert masked.output["body"] == "***"
        assert unknown.finished.error is not None
        assert "KEY" in unknown.finished.error.message
        server.gate.set()
        harness.wait_finished([slow])

    def test_many_waiting_nodes_all_end_exactly_once(self, harness: Harness, ask: Callable[..., Workload]) -> None:
        workloads = [ask(f"/hello?{number}") for number in range(60)]
        harness.submit(*workloads)
        assert {result.output["status"] for result in harness.wait_finished(workloads)} == {200}

    def test_stop_ends_waiting_nodes_within_the_grace(
        self, make_harness: Callable[..., Harness], server: SlowServer
    ) -> None:
        harness = make_harness(parallelism=2)
        asked = [
            harness.workload("http", {"url": server.url(f"/slow?{number}")}, limits={"allow_private_http": True})
            for number in range(2)
        ]
        harness.submit(*asked)
        for number in range(2):
            server.wait_for(str(number))
        begin = time.monotonic()
        harness.executor.stop(1)
        assert time.monotonic() - begin < 5
        for result in harness.wait_finished(asked, 0.1):
            assert result.finished.outcome is Outcome.LOST
            assert result.finished.error is not None
            assert result.finished.error.type == "Shutdown"

    def test_after_the_lease_no_waiting_node_starts(
        self, make_harness: Callable[..., Harness], server: SlowServer
    ) -> None:
        harness = make_harness(lease=lambda: time.monotonic() - 1)
        result = harness.run(harness.workload("http", {"url": server.url("/hello")}))
        assert result.finished.outcome is Outcome.LOST
        assert result.finished.started_at is None


def _kill_owner_of(port: int) -> None:
    """SIGKILL for the process whose connection has this port at its end."""
    import psutil

    found = [
        connection.pid
        for connection in psutil.net_connections("tcp4")
        if connection.laddr and connection.laddr.port == port and connection.pid is not None
    ]
    assert len(found) == 1, f"{len(found)} processes own port {port}"
    psutil.Process(found[0]).kill()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

"""A small health endpoint: `/healthz` (this process lives), `/readyz` (the system can run workflows), `/metrics`, `/`."""

from __future__ import annotations

import html
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import ClassVar

from agentflow.errors import SettingsError

logger = logging.getLogger(__name__)

CACHED = 1.0  # seconds that an answer of /readyz is kept: probes must not become a load
CLIENT_TIMEOUT = 5.0  # seconds
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
POLL = 0.2  # seconds between looks whether to stop


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold before the system is ready."""

    name: str
    ok: bool
    detail: str = ""


Readiness = Callable[[], Sequence[Check]]


class HealthServer:
    """Answers on a thread of its own until stopped."""

    def __init__(self, host: str, port: int, readiness: Readiness, metrics: Callable[[], bytes] | None = None) -> None:
        """Take the port (0: any) without answering yet. With `metrics` it answers `/metrics` too.

        Raises:
            SettingsError: The port cannot be had.
        """
        self._readiness = readiness
        self.metrics = metrics
        self._lock = threading.Lock()
        self._answer: tuple[float, Sequence[Check]] | None = None
        handler = type("Handler", (_Handler,), {"health": self})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise SettingsError(
                f"Port {port} on {host} cannot be used: {error.strerror}", hint="choose another one with --port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=[POLL], name="health", daemon=True)

    @property
    def address(self) -> str:
        """`http://host:port` in force."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def checks(self) -> Sequence[Check]:
        """The checks, at most `CACHED` seconds old."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > CACHED:
                self._answer = (time.monotonic(), self._readiness())
            return self._answer[1]


def _page(checks: Sequence[Check]) -> str:
    """A status page for people; it refreshes itself."""
    rows = "".join(
        f"<li>{'✓' if check.ok else '✗'} {html.escape(check.name)} <small>{html.escape(check.detail)}</small></li>"
        for check in checks
    )
    ready = "ready" if all(check.ok for check in checks) else "not ready"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5><title>AgentFlow</title>"
        f"<body style='font:16px system-ui;margin:4rem'><h1>AgentFlow is {ready}</h1><ul>{rows}</ul></body></html>"
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name, which may take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    health: ClassVar[HealthServer]
    timeout = CLIENT_TIMEOUT
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._reply(200, {"status": "alive"})
        elif path == "/readyz":
            checks = self.health.checks()
            ready = all(check.ok for check in checks)
            status = "ready" if ready else "not ready"
            self._reply(200 if ready else 503, {"status": status, "checks": [asdict(check) for check in checks]})
        elif path == "/metrics" and self.health.metrics is not None:
            self._send(200, METRICS_TYPE, self.health.metrics())
        elif path == "/":
            self._send(200, "text/html; charset=utf-8", _page(self.health.checks()).encode())
        else:
            self._reply(404, {"status": "not found", "paths": ["/", "/healthz", "/readyz", "/metrics"]})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _reply(self, status: int, document: object) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "agentflow"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        logger.debug("health_request", extra={"request": format % args})

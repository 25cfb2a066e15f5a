"""Where the storm takes place: a Postgres of its own, several schedulers, a web server, and a journal outside."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

from agentflow.db import migrate
from agentflow.postgres import EmbeddedPostgres
from agentflow.postgres.config import UNSAFE_FAST
from executors.processes.nursery import remove_tree
from tests.acceptance.crash_kit import MARK, Site

SETTINGS = {
    "AGENTFLOW_EXECUTORS": "local,subprocess",
    "AGENTFLOW_PARALLELISM": "4",
    "AGENTFLOW_ALLOW_PRIVATE_HTTP": "true",
    "AGENTFLOW_SUBPROCESS_ENVIRONMENT": MARK,  # so that what is left behind is found there too
    "AGENTFLOW_LOG_LEVEL": "WARNING",
}


class _Answers(BaseHTTPRequestHandler):
    """Counts requests by run; each is answered after a moment."""

    asked: dict[str, int]
    pause = threading.Event()  # never set: its wait is the moment

    def do_GET(self) -> None:
        self.pause.wait(0.2)
        run = self.path.strip("/")
        self.asked[run] = self.asked.get(run, 0) + 1
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """The terminal is for the storm."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class Place:
    """All of it, made by `place`."""

    def __init__(self, site: Site, postgres: EmbeddedPostgres, http_url: str, asked: dict[str, int]) -> None:
        self.site = site
        self.postgres = postgres
        self.http_url = http_url
        self.asked = asked  #: Requests that were answered, by run.

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """One more scheduler; returns before it serves."""
        return self.site.popen("-m", "scheduler", **SETTINGS)

    def server_processes(self) -> list[psutil.Process]:
        """The postmaster and its children; none while it is down."""
        pid_file = self.postgres.home / "postgres/data/postmaster.pid"
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
            return [postmaster, *postmaster.children(recursive=True)]
        return []


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Everything but the schedulers; ends whatever was started."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-chaos-"))
    folder.chmod(0o755)  # the server runs as another user when we are root
    handler = type("Answers", (_Answers,), {"asked": {}})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    postgres = EmbeddedPostgres(folder / "home", settings=UNSAFE_FAST)
    try:
        postgres.attach()
        migrate.upgrade(postgres.url)
        work = folder / "site"
        work.mkdir()
        site = Site(postgres.url, work)
        found = Place(site, postgres, f"http://127.0.0.1:{server.server_port}", handler.asked)
        try:
            yield found
        finally:
            site.close()
            for process in found.server_processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
    finally:
        postgres.detach()
        server.shutdown()
        server.server_close()
        thread.join()
        remove_tree(folder)

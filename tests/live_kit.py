"""A real webserver (gunicorn, gevent) on a test's database, and Socket.IO clients that remember what they saw."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import socketio

ROOT = Path(__file__).parents[1]
PATIENCE = 20.0  #: Seconds until what should happen must have happened, on a busy machine.


def until(condition: Callable[[], Any], what: str = "it", seconds: float = PATIENCE) -> Any:
    """Wait for a condition; what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)
    return found


class Server:
    """`python -m webserver` as gunicorn runs it; unless another `app` is named, with the fake authentication of live_app."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        workers: int = 1,
        port: int = 0,
        app: str = "tests.live_app:application()",
        **environment: str,
    ) -> None:
        self.port = port or free_port()
        self.revoked = folder / "revoked"
        self.revoked.touch()
        self.log = folder / f"webserver-{self.port}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from gunicorn.app.wsgiapp import run; run()"),
                    *("-c", "python:webserver.gunicorn_conf", app),
                ],
                env=clean
                | {
                    "AGENTFLOW_DATABASE_URL": url,
                    "AGENTFLOW_HOME": str(folder),
                    "AGENTFLOW_SECRET_KEY": "k" * 40,
                    "AGENTFLOW_WEB_PORT": str(self.port),
                    "AGENTFLOW_WEB_WORKERS": str(workers),
                    "AGENTFLOW_LOG_FORMAT": "json",
                    "REVOKED": str(self.revoked),
                }
                | environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(OSError):
                return self.get("/healthz")[0] == 200
            return False

        until(answers, "an answer of the webserver", 40)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def said(self) -> str:
        return self.log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Lines of its log with that event word."""
        found = (json.loads(line) for line in self.said().splitlines() if line.startswith("{"))
        return [line for line in found if line["event"] == event]

    def stop(self) -> float:
        """SIGTERM; seconds until it was gone."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - began

    def close(self) -> None:
        """End what is left of it."""
        if self.process.poll() is None:
            family = [psutil.Process(self.process.pid), *self.workers()]
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            self.process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Watcher:
    """A client as the UI is one: keeps the newest state, asks again from there after a reconnect."""

    def __init__(self, server: Server, *, name: str = "ada", role: str = "viewer", **options: Any) -> None:
        self.sio = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.3, randomization_factor=0)
        self.lock = threading.Lock()
        self.seq: dict[str, int] = {}  #: By run, of what is shown.
        self.run: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[tuple[str, int | None], str]] = {}
        self.older: list[Any] = []  #: Messages that were older than what was shown: there must be none.
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.lists: dict[str, dict[str, Any]] = {}  #: Runs of the lists, by id.
        self.workflows: dict[str, dict[str, Any]] = {}  #: By name, as the messages told.
        self.lines: list[dict[str, Any]] = []
        self.ended = False
        self.closed: list[dict[str, Any]] = []
        self.resumed = 0
        self._rooms: list[str] = []
        self.sio.on("run", self._run)
        self.sio.on("runs", self._runs)
        self.sio.on("workflows", self._workflows)
        self.sio.on("logs", self._logs)
        self.sio.on("closed", self.closed.append)
        self.sio.on("connect", self._connected)
        auth = {"token": f"{role} {name}"} | options.pop("auth", {})
        self.sio.connect(server.address, auth=auth, transports=["websocket"], wait_timeout=20, **options)

    def join(self, room: str, **more: Any) -> dict[str, Any]:
        self._rooms.append(room)
        return self.sio.call("join", {"room": room, **more}, timeout=20)

    def _connected(self) -> None:
        if self._rooms:
            self.resumed += 1
        for room in self._rooms:
            message: dict[str, Any] = {"room": room}
            if room.startswith("run:") and room[4:] in self.seq:
                message["after"] = self.seq[room[4:]]
            elif room.startswith("logs:") and self.lines:
                message["after"] = self.lines[-1]["seq"]
            elif self.lists and not room.startswith(("run:", "logs:")):
                message["known"] = {run: row["event_seq"] for run, row in self.lists.items()}
            self.sio.emit("join", message, callback=self._missed)

    def _missed(self, answer: dict[str, Any]) -> None:
        self._runs({"runs": answer.get("runs", [])})

    def _run(self, message: dict[str, Any]) -> None:
        run = message["room"][4:]
        with self.lock:
            self.messages.append(("run", message))
            if message.get("gone"):
                self.run.pop(run, None)
                return
            if message["seq"] < self.seq.get(run, -1) or (message["from"] or 0) > self.seq.get(run, 0):
                self.older.append(message)
            self.seq[run] = message["seq"]
            self.run[run] = message["run"]
            nodes = self.nodes.setdefault(run, {})
            nodes |= {(node["node"], node["map_index"]): node["state"] for node in message.get("nodes", ())}

    def _runs(self, message: dict[str, Any]) -> None:
        with self.lock:
            self.messages.append(("runs", message))
            for row in message.get("runs", ()):
                if row["event_seq"] >= self.lists.get(row["id"], {}).get("event_seq", 0):
                    self.lists[row["id"]] = row

    def _workflows(self, message: dict[str, Any]) -> None:
        with self.lock:
            self.messages.append(("workflows", message))
            self.workflows |= {row["name"]: row for row in message.get("workflows", ())}
            for name in message.get("gone", ()):
                self.workflows.pop(name, None)

    def _logs(self, message: dict[str, Any]) -> None:
        with self.lock:
            self.lines += message["lines"]
            self.ended = self.ended or message["ended"]

    def sees(self, run: str) -> str | None:
        return self.run[run]["state"] if run in self.run else None

    def close(self) -> None:
        self.sio.disconnect()
        self.sio.shutdown()

"""`agentflow standalone`: Postgres, migrations and the scheduler in one terminal."""

from __future__ import annotations

import socket
import sys
import time
from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import JsonFlag
from agentflow.errors import UsageError

HOST = "127.0.0.1"
DATABASE_CHECK = 5.0  #: Seconds between looks whether the embedded Postgres was killed.
_LOOK = 1.0  #: Seconds between looks at everything once it is up.
_LOOK_AT_START = 0.05  # seconds


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(standalone)


def standalone(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the web page.")] = 8080,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,  # noqa: ARG001 - there is no page to open before the webserver is part of AgentFlow
    json: JsonFlag = False,
) -> None:
    """Run everything here: embedded Postgres, migrations, scheduler. Ctrl-C stops it."""
    from agentflow import log
    from agentflow.supervisor import Program, Supervisor

    require_free(port)
    with context.session() as session:
        log.configure(session.settings)
        from agentflow.postgres import without_password

        watcher = _Watcher(port, without_password(session.url), as_json=json)
        scheduler = Program("scheduler", {"AGENTFLOW_HEALTH_HOST": HOST, "AGENTFLOW_HEALTH_PORT": str(port)})
        session.engine.dispose()  # the schema is there; the scheduler has its own connections

        def check() -> None:
            watcher.look()
            if watcher.database_due():
                session.handle.ensure_running()

        Supervisor([scheduler], check=check, interval=_LOOK_AT_START).run()
        if not json:
            output.note("stopped")


def require_free(port: int) -> None:
    """Raise unless this port can be listened on.

    Raises:
        UsageError: Somebody else does already.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be used: {error.strerror}", hint="choose another: --port 8081"
            ) from error


class _Watcher:
    """Says once that everything is up; knows when the database is due for a look."""

    def __init__(self, port: int, place: str, *, as_json: bool) -> None:
        self._port = port
        self._place = place
        self._as_json = as_json
        self._up = False
        self._began = time.monotonic()
        self._looked = self._began

    def look(self) -> None:
        if self._up or not self._answers():
            return
        self._up = True
        url = f"http://{HOST}:{self._port}/healthz"
        if self._as_json:
            output.print_json({"url": url, "database": self._place})
        else:
            took = output.duration_text(time.monotonic() - self._began)
            output.say(f"AgentFlow is up after {took}: {url}\ndatabase: {self._place}\nCtrl-C stops it.")
        sys.stdout.flush()

    def database_due(self) -> bool:
        now = time.monotonic()
        if now - self._looked < DATABASE_CHECK:
            return False
        self._looked = now
        return True

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self._port), timeout=0.2):
                return True
        except OSError:
            return False

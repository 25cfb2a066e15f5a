"""`agentflow webserver`: gunicorn in the foreground."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Annotated

import typer

from agentflow.cli import output
from agentflow.cli.output import JsonFlag
from agentflow.keys import key_ring
from agentflow.settings import Settings, load_settings

MODULE = (sys.executable, "-m", "webserver")


def webserver(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0: all. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port. Default: 8080.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", min=1, help="Processes. Default: 1.")] = None,
    json: JsonFlag = False,
) -> None:
    """Serve the API and the live feed until Ctrl-C or SIGTERM; any number may run beside each other."""
    given = {"AGENTFLOW_WEB_HOST": host, "AGENTFLOW_WEB_PORT": port, "AGENTFLOW_WEB_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    settings = load_settings()
    if json:
        output.print_json({"address": f"http://{settings.web_host}:{settings.web_port}", "pid": os.getpid()})
        sys.stdout.flush()
    # A fresh interpreter: this one has imported what gevent must patch first.
    os.execve(sys.executable, MODULE, dict(os.environ))  # noqa: S606 - our own interpreter and module


def serve(settings: Settings) -> int:
    """Run the server on the configured database; returns the exit code.

    Raises:
        DatabaseUnreachable: The embedded server does not start.
        SettingsError: The database is an external one, and there is no secret key for what is encrypted in it.
    """
    if not settings.database_url:
        return _beside_embedded(settings)
    key_ring(settings.secret_key, settings.home)
    from gunicorn.app import wsgiapp

    sys.argv = ["agentflow-webserver", "-c", "python:webserver.gunicorn_conf"]
    wsgiapp.run(prog="agentflow-webserver")
    return 0


def _beside_embedded(settings: Settings) -> int:
    """Hold the embedded database while a child of ours serves: the server itself must not import psycopg."""
    from agentflow.home import make_home
    from agentflow.keys import ensure_secret_key
    from agentflow.postgres import database

    make_home(settings.home)
    ensure_secret_key(settings.secret_key, settings.home)
    with database(settings) as handle:
        child = subprocess.Popen(MODULE, env=os.environ | {"AGENTFLOW_DATABASE_URL": handle.url})
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda sent, _frame: child.send_signal(sent))
        return child.wait()

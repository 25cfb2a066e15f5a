"""`agentflow standalone`: Postgres, migrations, scheduler and webserver in one terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from agentflow.cli import output
from agentflow.cli.output import JsonFlag


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(standalone)


def standalone(
    *,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the webserver. Default: AGENTFLOW_WEB_PORT, 8080.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run everything in this terminal: embedded Postgres, migrations, scheduler, webserver. Ctrl-C stops it."""
    from agentflow import log
    from agentflow.settings import load_settings
    from agentflow.supervisor import run_standalone

    settings = load_settings()
    log.configure(settings)
    port = port or settings.web_port
    people: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if json:
        address = f"http://{settings.web_host}:{port}"
        output.print_json({"address": address, "pid": os.getpid(), "home": str(settings.home)})
        people = contextlib.redirect_stdout(sys.stderr)
    with people:
        code = run_standalone(settings, port=port, open_browser=not (no_browser or json))
    raise typer.Exit(code)

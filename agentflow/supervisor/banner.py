"""What `standalone` says on its terminal: where things are, and when it is ready."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Mapping
from importlib.metadata import version

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table

from agentflow.postgres import DatabaseHandle
from agentflow.settings import Settings


class Banner:
    """A frame and colours on a terminal, plain lines elsewhere. Logs go to stderr, this to stdout."""

    def __init__(self, settings: Settings, *, open_browser: bool) -> None:
        self._settings = settings
        self._address = ""
        self._open_browser = open_browser
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def starting(self) -> None:
        """The first sign of life: the database may take a second."""
        self._say("Starting AgentFlow ...")

    def serving(self, address: str, handle: DatabaseHandle, *, first_login: str | None = None) -> None:
        """Where everything is; and how the first administrator comes in, if nobody has yet."""
        self._address = first_login or address
        rows = {
            "Address": address,
            "Workflows": str(self._settings.dags_path.absolute()),
            "Executor": f"{self._settings.executor}, {self._settings.parallelism} attempts at once",
            "Database": handle.place,
            "Home": str(self._settings.home),
        }
        if handle.embedded is not None:
            rows["Postgres log"] = str(handle.embedded.log)
        self._table(f"AgentFlow {version('agentflow')}", rows)
        if first_login is not None:  # not in the frame, which would break it
            self._say(f"Log in, once and within an hour: {first_login}")

    def ready(self, seconds: float) -> None:
        """A scheduler is alive and the webserver answers: workflows run."""
        self._say(f"Ready in {seconds:.1f} s. Try: agentflow run FILE. Ctrl-C stops.", style="green")
        if self._open_browser and self._console.is_terminal and _has_screen():
            webbrowser.open(self._address)

    def stopping(self) -> None:
        """A stop was asked for, or something failed."""
        self._say("Stopping ... (again: kill)")

    def stopped(self) -> None:
        """All is ended."""
        self._say("Stopped.")

    def _say(self, text: str, style: str | None = None) -> None:
        self._print(text, style=style)

    def _table(self, title: str, rows: Mapping[str, str]) -> None:
        if self._console.is_terminal:
            table = Table.grid(padding=(0, 2))
            for name, value in rows.items():
                table.add_row(name, value)
            self._print(Panel(table, title=title, border_style="cyan", expand=False))
        else:
            lines = [f"  {name + ':':<13} {value}" for name, value in rows.items()]
            self._print("\n".join([title, *lines]))

    def _print(self, what: RenderableType, style: str | None = None) -> None:
        # A server goes on when its terminal is gone; rich turns a closed pipe into SystemExit.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(what, style=style)
            self._console.file.flush()  # a pipe is buffered, and its reader waits for "Ready"


def _has_screen() -> bool:
    """Whether a browser could show up; a text browser would take the terminal from us."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

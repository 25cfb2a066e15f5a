"""`agentflow scheduler`: the daemon in the foreground."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from agentflow import lifeline, log
from agentflow.cli import output
from agentflow.cli.output import JsonFlag
from agentflow.keys import key_ring
from agentflow.settings import Settings, load_settings

if TYPE_CHECKING:
    from scheduler.daemon import Daemon


def scheduler(*, json: JsonFlag = False) -> None:
    """Run a scheduler until Ctrl-C or SIGTERM; any number may run beside each other.

    With --json, its id is printed once it serves.
    """
    settings = load_settings()
    log.configure(settings)
    serve(settings, on_ready=_print_identity if json else None)


def _print_identity(daemon: Daemon) -> None:
    output.print_json({"id": str(daemon.identity.id), "pid": os.getpid()})


def serve(settings: Settings, *, on_ready: Callable[[Daemon], None] | None = None) -> None:
    """Run a scheduler on the configured database until a signal asks it to stop; a second signal kills at once.

    Args:
        settings: All of them.
        on_ready: Called once it serves.

    Raises:
        DatabaseUnreachable: The database does not answer.
        DatabaseNotReady: Its schema is not the one this version needs.
        SettingsError: The database is an external one, and there is no secret key for what is encrypted in it.
    """
    from agentflow.postgres import database

    if settings.database_url:
        key_ring(settings.secret_key, settings.home)

    asked = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        if asked.is_set():
            raise SystemExit(130)  # impatient: whatever is left is recovered as lost
        asked.set()

    with database(settings) as handle:
        from scheduler.daemon import Daemon

        daemon = Daemon(settings, handle.url)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        daemon.start()
        lifeline.watch(asked.set)
        try:
            if on_ready is not None:
                on_ready(daemon)
            asked.wait()
        finally:
            daemon.stop()

"""`agentflow scheduler`: the daemon in the foreground."""

from __future__ import annotations

import signal
import threading

from agentflow import lifeline, log
from agentflow.cli.output import JsonFlag
from agentflow.settings import Settings, load_settings


def scheduler(*, json: JsonFlag = False) -> None:  # noqa: ARG001 - only errors have a document: main() prints it
    """Run a scheduler until Ctrl-C or SIGTERM; any number may run beside each other."""
    settings = load_settings()
    log.configure(settings)
    serve(settings)


def serve(settings: Settings) -> None:
    """Run a scheduler on the configured database until a signal asks it to stop; a second signal kills at once.

    Raises:
        DatabaseUnreachable: The database does not answer.
        DatabaseNotReady: Its schema is not the one this version needs.
    """
    from agentflow.postgres import database

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
            asked.wait()
        finally:
            daemon.stop()

"""Puts one machine's AgentFlow together: database, migrations, scheduler, health endpoint."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from agentflow import lifeline
from agentflow.errors import Conflict
from agentflow.health import Check, HealthServer
from agentflow.home import make_home, write_private
from agentflow.keys import ensure_secret_key
from agentflow.locks import FileLock
from agentflow.postgres import DatabaseHandle, database
from agentflow.readiness import readiness
from agentflow.settings import Settings
from agentflow.supervisor.banner import Banner
from agentflow.supervisor.children import Child
from agentflow.supervisor.loop import Supervisor
from agentflow.supervisor.signals import StopRequested, StopSignals
from agentflow.supervisor.watch import DatabaseWatch

#: Seconds; a fast shutdown takes a tenth of that. After that Postgres goes on shutting down by itself.
STOP_DATABASE = 0.8
SCHEDULER = (sys.executable, "-m", "scheduler")
INTERRUPTED = 130


def run_standalone(settings: Settings, *, port: int, open_browser: bool, scheduler: Sequence[str] = SCHEDULER) -> int:
    """Run everything in this terminal until SIGINT or SIGTERM; a second signal kills at once.

    Args:
        settings: In force for this process and the children.
        port: Of the health endpoint; 0: any free one.
        open_browser: Whether to show the address in a browser once it is ready.
        scheduler: The command that is kept running.

    Returns:
        The exit code: 0 after a clean stop.

    Raises:
        Conflict: Another standalone uses this home.
        DatabaseUnreachable: No database.
        DatabaseNotReady: Its version or data does not fit.
        SettingsError: The home or the port cannot be used.
    """
    return Standalone(settings, scheduler, Banner(settings, open_browser=open_browser)).run(port)


class Standalone:
    """What `run_standalone` holds together."""

    def __init__(self, settings: Settings, scheduler: Sequence[str], banner: Banner) -> None:
        self._settings = settings
        self._home = settings.home.expanduser().resolve()
        self._banner = banner
        self._handle: DatabaseHandle | None = None
        self._scheduler = Child("scheduler", scheduler, self._environment)
        self._started = time.monotonic()

    def run(self, port: int) -> int:
        """See `run_standalone`."""
        make_home(self._home)
        with StopSignals(self._kill) as signals, contextlib.suppress(StopRequested), self._only_one() as claim:
            health = HealthServer(self._settings.health_host, port, self._checks)
            try:
                claim(health.address)
                health.start()
                self._banner.starting()
                ensure_secret_key(self._settings.secret_key, self._home)
                self._serve(signals, health.address)
            finally:
                health.stop()
            self._banner.stopped()
        return 0

    def _serve(self, signals: StopSignals, address: str) -> None:
        from agentflow.db import migrate

        with contextlib.ExitStack() as stack:
            with signals.interruptible():
                handle = stack.enter_context(database(self._settings))
                handle.stop_timeout = STOP_DATABASE
                migrate.upgrade(handle.url)
                self._handle = handle
            self._banner.serving(address, handle)
            supervisor = Supervisor(
                signals,
                DatabaseWatch(handle),
                [self._scheduler],
                ready=self._is_ready,
                on_ready=lambda: self._banner.ready(time.monotonic() - self._started),
            )
            try:
                supervisor.run()
            finally:
                self._banner.stopping()
                supervisor.stop()

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[Callable[[str], None]]:
        """Hold the home's standalone lock; yields how to write down our address for those who come later."""
        lock, note = FileLock(self._home / "standalone.lock"), self._home / "standalone.json"
        if not lock.try_acquire():
            raise Conflict(
                f"AgentFlow is already running on {self._home}{_where(note)}",
                hint="use that one, stop it first, or give this one another AGENTFLOW_HOME",
            )
        try:
            yield lambda address: write_private(note, json.dumps({"pid": os.getpid(), "address": address}))
        finally:
            note.unlink(missing_ok=True)
            lock.release()

    def _environment(self) -> Mapping[str, str]:
        """For a child: ours, with the settings in force. The secret key stays in its file."""
        assert self._handle is not None
        return os.environ | {
            "AGENTFLOW_DATABASE_URL": self._handle.url,
            "AGENTFLOW_HOME": str(self._home),
            "AGENTFLOW_DAGS_FOLDER": str(self._settings.dags_path.absolute()),
            lifeline.ENVIRONMENT: "stdin",
        }

    def _checks(self) -> Sequence[Check]:
        return readiness(self._handle.url if self._handle is not None else "")

    def _is_ready(self) -> bool:
        """Whether our own scheduler takes part (one of a run before may still look alive for some seconds)."""
        if self._handle is None or self._scheduler.pid is None:
            return False
        return all(check.ok for check in readiness(self._handle.url, pid=self._scheduler.pid))

    def _kill(self) -> None:
        """The second Ctrl-C: nobody waits for anything any more."""
        self._scheduler.kill()
        if self._handle is not None and self._handle.embedded is not None:
            self._handle.embedded.detach(timeout=0)
        os._exit(INTERRUPTED)


def _where(note: Path) -> str:
    """` at ADDRESS (process PID)` as the running one wrote it down."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return f" at {found['address']} (process {found['pid']})"
    except (OSError, ValueError, KeyError):
        return ""

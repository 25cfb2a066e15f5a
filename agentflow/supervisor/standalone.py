"""Puts one machine's AgentFlow together: database, migrations, scheduler, webserver."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agentflow import lifeline
from agentflow.clock import utc_now
from agentflow.errors import Conflict, SettingsError
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
#: Seconds for running attempts when the settings name none: with the rest, a stop takes less than 5.
SHUTDOWN_GRACE = 3.0
CHILD_EXTRA = 1.0  #: Seconds that the scheduler gets besides for its own end.
SCHEDULER = (sys.executable, "-m", "scheduler")
WEBSERVER = (sys.executable, "-m", "webserver")
INTERRUPTED = 130
LOGIN_PAGE = "/login"
ANSWER_TIMEOUT = 1.0  #: Seconds.


def run_standalone(
    settings: Settings,
    *,
    port: int,
    open_browser: bool,
    scheduler: Sequence[str] = SCHEDULER,
    webserver: Sequence[str] = WEBSERVER,
) -> int:
    """Run everything in this terminal until SIGINT or SIGTERM; a second signal kills at once.

    Args:
        settings: In force for this process and the children.
        port: Of the webserver; 0: any free one.
        open_browser: Whether to show the address in a browser once it is ready.
        scheduler: The command that is kept running.
        webserver: The other one.

    Returns:
        The exit code: 0 after a clean stop.

    Raises:
        Conflict: Another standalone uses this home.
        DatabaseUnreachable: No database.
        DatabaseNotReady: Its version or data does not fit.
        SettingsError: The home or the port cannot be used.
    """
    banner = Banner(settings, open_browser=open_browser)
    return Standalone(settings, scheduler, webserver, banner).run(port)


class Standalone:
    """What `run_standalone` holds together."""

    def __init__(self, settings: Settings, scheduler: Sequence[str], webserver: Sequence[str], banner: Banner) -> None:
        self._settings = settings
        self._home = settings.home.expanduser().resolve()
        self._banner = banner
        self._grace = settings.shutdown_grace if "shutdown_grace" in settings.model_fields_set else SHUTDOWN_GRACE
        self._handle: DatabaseHandle | None = None
        self._port = 0
        self._scheduler = Child("scheduler", scheduler, self._environment)
        self._webserver = Child("webserver", webserver, self._environment)
        self._children = [self._scheduler, self._webserver]
        self._started = time.monotonic()

    def run(self, port: int) -> int:
        """See `run_standalone`."""
        make_home(self._home)
        with StopSignals(self._kill) as signals, contextlib.suppress(StopRequested), self._only_one():
            self._port = _free_port(self._settings.web_host, port)
            self._write_note()
            self._banner.starting()
            ensure_secret_key(self._settings.secret_key, self._home)
            self._serve(signals)
            self._banner.stopped()
        return 0

    @property
    def _address(self) -> str:
        """Where a browser on this machine finds it."""
        host = self._settings.web_host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - what the user asked for
            host = "localhost"
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def _serve(self, signals: StopSignals) -> None:
        from agentflow.db import migrate

        with contextlib.ExitStack() as stack:
            with signals.interruptible():
                handle = stack.enter_context(database(self._settings))
                handle.stop_timeout = STOP_DATABASE
                self._handle = handle
                stack.callback(self._webserver.kill)  # when something goes wrong before the supervisor takes over
                self._webserver.start()  # takes a second or two to load, and needs no schema for that
                migrate.upgrade(handle.url)
            self._banner.serving(self._address, handle, first_login=self._first_login(handle.url))
            supervisor = Supervisor(
                signals,
                DatabaseWatch(handle),
                self._children,
                ready=self._is_ready,
                on_ready=lambda: self._banner.ready(time.monotonic() - self._started),
                grace=self._grace + CHILD_EXTRA,
            )
            try:
                supervisor.run()
            finally:
                self._banner.stopping()
                supervisor.stop()

    def _first_login(self, url: str) -> str | None:
        """Where the first administrator comes in, once; None as soon as anybody can log in."""
        from agentflow.access.links import first_login
        from agentflow.db.engine import make_engine, transact

        engine = make_engine(url, pool_size=1)
        try:
            token = transact(engine, lambda connection: first_login(connection, now=utc_now()))
        finally:
            engine.dispose()
        # A fragment: browsers keep it to themselves, so that it is in nobody's log.
        return None if token is None else f"{self._address}{LOGIN_PAGE}#token={token}"

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Hold the home's standalone lock."""
        lock = FileLock(self._home / "standalone.lock")
        if not lock.try_acquire():
            raise Conflict(
                f"AgentFlow is already running on {self._home}{_where(self._note)}",
                hint="use that one, stop it first, or give this one another AGENTFLOW_HOME",
            )
        try:
            yield
        finally:
            self._note.unlink(missing_ok=True)
            lock.release()

    @property
    def _note(self) -> Path:
        return self._home / "standalone.json"

    def _write_note(self) -> None:
        """Write down our address for those who come later."""
        write_private(self._note, json.dumps({"pid": os.getpid(), "address": self._address}))

    def _environment(self) -> Mapping[str, str]:
        """For a child: ours, with the settings in force. The secret key stays in its file."""
        assert self._handle is not None
        return os.environ | {
            "AGENTFLOW_DATABASE_URL": self._handle.url,
            "AGENTFLOW_HOME": str(self._home),
            "AGENTFLOW_DAGS_FOLDER": str(self._settings.dags_path.absolute()),
            "AGENTFLOW_WEB_PORT": str(self._port),
            "AGENTFLOW_SHUTDOWN_GRACE": str(self._grace),
            lifeline.ENVIRONMENT: "stdin",
        }

    def _is_ready(self) -> bool:
        """Whether our own scheduler takes part (one of a run before may still look alive for some seconds)."""
        if self._handle is None or self._scheduler.pid is None or not self._answers():
            return False
        return all(check.ok for check in readiness(self._handle.url, pid=self._scheduler.pid))

    def _answers(self) -> bool:
        """Whether the webserver does."""
        host = self._address.removeprefix("http://").rpartition(":")[0].strip("[]")
        connection = http.client.HTTPConnection(host, self._port, timeout=ANSWER_TIMEOUT)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _kill(self) -> None:
        """The second Ctrl-C: nobody waits for anything any more."""
        for child in self._children:
            child.kill()
        if self._handle is not None and self._handle.embedded is not None:
            self._handle.embedded.detach(timeout=0)
        os._exit(INTERRUPTED)


def _free_port(host: str, port: int) -> int:
    """The port, if it can be had; 0: any that can.

    Raises:
        SettingsError: It is taken, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"Port {port} on {host} cannot be used: {error.strerror}", hint="choose another one with --port"
            ) from error
        return int(probe.getsockname()[1])


def _where(note: Path) -> str:
    """` at ADDRESS (process PID)` as the running one wrote it down."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return f" at {found['address']} (process {found['pid']})"
    except (OSError, ValueError, KeyError):
        return ""

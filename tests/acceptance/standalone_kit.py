"""`agentflow standalone` as the crash tests start, use and kill it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agentflow.locks import FileLock
from agentflow.postgres import EmbeddedPostgres
from tests.acceptance.crash_kit import Site, until


def kill_server(home: Path) -> None:
    """SIGKILL to the embedded Postgres of a home: the postmaster and all its children."""
    postmaster = psutil.Process(_postmaster(home))
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def _postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().split()[0])


@dataclass
class Standalone:
    """`agentflow standalone` on a home, and the command line beside it."""

    site: Site
    home: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it says that it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        process = self.site.popen("-m", "agentflow", "standalone", "--port", port, "--no-browser", **self._settings())

        def ready() -> bool:
            assert process.poll() is None, f"standalone ended with {process.returncode}: {self.site.said()}"
            return "\nReady" in self.site.output(process)

        until(ready, 30, "standalone is ready")
        self.site.url = EmbeddedPostgres(self.home).url
        return process

    def agentflow(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "agentflow", *arguments, "--json"],
            env=self.site.environment(**self._settings()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def _settings(self) -> dict[str, str]:
        return {"AGENTFLOW_DATABASE_URL": "", "AGENTFLOW_HOME": str(self.home)}

    def scheduler(self, process: subprocess.Popen[bytes]) -> psutil.Process:
        """The scheduler child that lives now."""

        def find() -> psutil.Process | None:
            children = psutil.Process(process.pid).children()
            return next((child for child in children if _is_scheduler(child)), None)

        found: psutil.Process = until(find, what="a scheduler child")
        return found

    def leftovers(self) -> list[psutil.Process]:
        """Everything of it that lives, Postgres included, which must end within moments of the last user."""
        lock = FileLock(self.home / "postgres.alive")

        def server_gone() -> bool:
            free = lock.try_acquire("shared")
            lock.release()
            return free

        until(server_gone, 3, "the embedded Postgres has ended")
        return self.site.leftovers()

    def close(self) -> None:
        """End what is left."""
        self.site.close()
        with contextlib.suppress(OSError, psutil.Error):
            kill_server(self.home)


def _is_scheduler(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[-2:] == ["-m", "scheduler"]
    except psutil.NoSuchProcess:
        return False

"""One data directory: make it, start and stop its server. Callers hold the start-up lock of the home."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from agentflow.accounts import Account
from agentflow.errors import DatabaseNotReady, DatabaseUnreachable, SettingsError
from agentflow.locks import POLL, FileLock, LockTimeout
from agentflow.postgres.access import USER
from agentflow.postgres.binaries import Binaries
from agentflow.postgres.config import conf_text

logger = logging.getLogger(__name__)

LOG_KEPT = 8 * 2**20  # bytes; a larger log is set aside at the next start
_PROBES = 1.0  # seconds; others hold the lock for an instant to see whether the server lives
_PORT_LINE = 3  # of postmaster.pid, from 0
_TAIL = 2000  # bytes of the log in an error


class Cluster:
    """The server of one home.

    Whether it lives is told by a lock on `postgres.alive` that its processes inherit: the kernel frees it when the last
    of them is gone, so neither a recycled process id, nor a zombie, nor a stale postmaster.pid can deceive.
    """

    def __init__(self, home: Path, binaries: Binaries, account: Account) -> None:
        self.binaries = binaries
        self.account = account
        self.folder = home / "postgres"
        self.data = self.folder / "data"
        self.log = home / "postgres.log"
        self._alive_file = home / "postgres.alive"

    def alive(self) -> bool:
        """Whether any process of the server exists, answering or not."""
        probe = FileLock(self._alive_file)
        free = probe.try_acquire("shared")
        probe.release()
        return not free

    def exists(self) -> bool:
        """Whether the data directory has been made."""
        return (self.data / "PG_VERSION").exists()

    def listens_on(self, port: int) -> bool:
        """Whether the server is alive and says that it listens on this port."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > _PORT_LINE and lines[_PORT_LINE].strip() == str(port) and self.alive()

    def create(self, password: str, *, sync: bool = True) -> None:
        """Make the data directory if there is none yet.

        Raises:
            DatabaseNotReady: initdb failed, or the directory belongs to another major version.
        """
        if self.exists():
            self._check_major()
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.account.own(self.folder)
        if not self.account.can_enter(self.folder):
            raise SettingsError(
                f"AGENTFLOW_HOME: AgentFlow was started by root and so runs Postgres as an unprivileged user, who cannot enter {self.folder}",
                hint="use a home that everybody may enter, such as /var/lib/agentflow, or start AgentFlow as a normal user",
            )
        # A crash in the middle leaves `data.partial`, which the next start throws away.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        password_file = self.folder / "initdb-password"
        try:
            self._write(password_file, password)
            self._initdb(partial, password_file, sync=sync)
        finally:
            password_file.unlink(missing_ok=True)
        partial.rename(self.data)

    def _initdb(self, target: Path, password_file: Path, *, sync: bool) -> None:
        # Text sorts by code point on every machine; the builtin provider knows Unicode's upper and lower case as well.
        locale = ["--locale=C"]
        if self.binaries.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command: list[str | Path] = [self.binaries.program("initdb"), "-D", target, "-U", USER, "-A", "scram-sha-256"]
        command += [f"--pwfile={password_file}", "--encoding=UTF8", "--data-checksums", *locale]
        if not sync:
            command.append("--no-sync")
        done = self.account.run(command, capture_output=True)
        if done.returncode != 0:
            raise DatabaseNotReady(
                f"The embedded Postgres could not make its data directory: {(done.stderr or done.stdout).strip()[-_TAIL:]}",
                hint=f"check the free space and the rights of {self.folder}",
            )

    def _check_major(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        if found == str(self.binaries.major):
            return
        raise DatabaseNotReady(
            f"{self.data} was made by Postgres {found}, but this AgentFlow runs Postgres {self.binaries.major}",
            hint=(
                f"to keep using it: AGENTFLOW_EMBEDDED_POSTGRES_MAJOR={found}. To move it: stop AgentFlow; with that setting run "
                f"`python -m agentflow.postgres pg_dump -Fc -f agentflow.dump`; rename {self.folder} and {self.folder}.password; "
                "without it run `python -m agentflow.postgres pg_restore -d agentflow agentflow.dump` (docs/operations.md)"
            ),
        )

    def start(self, port: int, extra: Mapping[str, str]) -> None:
        """Launch the server and return at once; it answers some time later or dies (`alive`).

        Raises:
            DatabaseUnreachable: It could not be launched.
        """
        alive = FileLock(self._alive_file)
        try:
            alive.acquire("exclusive", _PROBES)
        except LockTimeout:
            return
        try:
            # We hold the lock, so no process of this server is left and the file speaks of a dead one; its process id
            # may since belong to a stranger, in front of whom Postgres would refuse to start.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            self._write(self.data / "postgresql.conf", conf_text(extra))
            self._launch(port, alive.fileno())
        finally:
            alive.hand_over()

    def _launch(self, port: int, alive_fd: int) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_KEPT:
            self.log.rename(self.log.with_suffix(".log.1"))
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # pg_ctl detaches the server from us: it belongs to nobody's terminal and is nobody's child to reap.
            done = self.account.run(
                [self.binaries.program("pg_ctl"), "start", "-W", "-s", "-D", self.data, "-o", f"-p {port}"],
                stdout=log,
                stderr=log,
                pass_fds=[alive_fd],
            )
        finally:
            os.close(log)
        if done.returncode != 0:
            raise DatabaseUnreachable("The embedded Postgres did not start", hint=self.log_tail())

    def stop(self, timeout: float) -> bool:
        """Fast shutdown: open transactions are rolled back. Returns whether it ended within `timeout` seconds."""
        pid = self._postmaster()
        if pid is not None:
            try:
                os.kill(pid, signal.SIGINT)
            except ProcessLookupError:
                logger.debug("postgres_gone")
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() >= deadline:
                logger.warning("postgres_stop_slow", extra={"pid": pid, "timeout": timeout})
                return False
            time.sleep(POLL)
        return True

    def _postmaster(self) -> int | None:
        """Process id of the living server; None if there is none, or the file speaks of somebody else."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            ours = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == self.data
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        return pid if ours else None

    def log_tail(self) -> str:
        """The last lines of the server's log, for an error message."""
        try:
            text = self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        except OSError:
            text = ""
        return f"{self.log} ends with:\n{text}" if text else f"see {self.log}"

    def _write(self, path: Path, text: str) -> None:
        """A fresh file that the server's account can read; never through a link that it may have put there."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        self.account.own(path)

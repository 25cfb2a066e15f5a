"""A whole AgentFlow to measure: `python -m scheduler` on an embedded Postgres in a home of its own, settings as shipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
from _workflows import Document
from sqlalchemy import Connection, Engine, text

from agentflow import catalog, runs
from agentflow.db import migrate
from agentflow.db.engine import make_engine, transact
from agentflow.postgres import database
from agentflow.settings import Settings
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy

T = TypeVar("T")

ACTOR = "benchmark"
START_TIMEOUT = 30.0  # seconds
RUN_TIMEOUT = 120.0  # seconds
POLL = 0.02  # seconds between looks at a run: 0.2 ms of work each

_OPEN = text("SELECT count(*) FROM run WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('queued', 'running')")
_ALIVE = text("SELECT count(*) FROM scheduler WHERE state = 'alive' AND pid = :pid")


class BenchmarkFailed(RuntimeError):
    """What was to be measured did not happen."""


class System:
    """A running scheduler with its database. Made by `running_system`."""

    def __init__(self, home: Path, url: str, dags: Path) -> None:
        self.home = home
        self.url = url  #: SQLAlchemy address of the scheduler's database.
        self.dags = dags  #: The DAG folder; empty at first.
        self.engine: Engine = make_engine(url, pool_size=2, application_name="agentflow-benchmark")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands that shall use this home."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        ours = {"HOME": str(self.home), "DAGS_FOLDER": str(self.dags)}
        ours["ALLOW_PRIVATE_HTTP"] = "true"  # the server that http nodes ask is on this machine
        return kept | {f"AGENTFLOW_{name}": value for name, value in ours.items()}

    @property
    def scheduler(self) -> psutil.Process:
        """The scheduler's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def postgres(self) -> list[psutil.Process]:
        """The processes of the database server."""
        data = self.do(lambda c: c.scalar(text("SELECT current_setting('data_directory')")))
        server = psutil.Process(int(Path(str(data), "postmaster.pid").read_text(encoding="utf-8").split()[0]))
        return [server, *server.children()]

    # -- life ------------------------------------------------------------------------------------------------------
    def start_scheduler(self) -> None:
        """Start the process and wait until it has registered."""
        log = (self.home / "scheduler.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scheduler"],
                cwd=self.home,  # no agentflow.toml of the checkout counts here
                env=self.environment | {"AGENTFLOW_LIFELINE": "stdin"},  # it ends with us, however we end
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_up, "the scheduler starts", START_TIMEOUT)

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            said = (self.home / "scheduler.log").read_text(encoding="utf-8", errors="replace")
            raise BenchmarkFailed(f"the scheduler ended with {self._process.returncode}: {said[-2000:]}")
        with self.engine.connect() as connection:
            return bool(connection.scalar(_ALIVE, {"pid": self._process.pid}))

    def stop(self) -> None:
        """Stop the scheduler and leave the database."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
        self.engine.dispose()

    # -- what benchmarks do ------------------------------------------------------------------------------------------
    def do(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction."""
        return transact(self.engine, work)

    def apply(self, document: Document) -> str:
        """Store a workflow; returns its name."""
        spec = parse_document(document)
        self.do(partial(catalog.apply_spec, spec=spec, source="api", actor=ACTOR))
        return spec.name

    def trigger(self, name: str) -> str:
        """Queue a run, as another process of a user would; returns its id."""
        create = partial(runs.create_run, name=name, params={}, triggered_by=TriggeredBy.API, actor=ACTOR)
        return str(self.do(create)["id"])

    def wait(self, run_ids: Sequence[str], timeout: float = RUN_TIMEOUT) -> None:
        """Wait until all these runs have ended."""
        ids = list(run_ids)
        wait_until(lambda: self.do(lambda c: c.scalar(_OPEN, {"ids": ids})) == 0, f"{len(ids)} runs end", timeout)

    def show(self, run_id: str) -> dict[str, Any]:
        """A run with its nodes, as `agentflow runs show --json` prints it; it must have succeeded."""
        run = self.do(partial(runs.show_run, run_id=run_id))
        if run["state"] != "success":
            failed = [f"{n['node']}: {n['error']}" for n in run["nodes"] if n["state"] != "success"]
            raise BenchmarkFailed(f"the run of {run['workflow']} is {run['state']}: {failed[:5]}")
        return run

    def run(self, name: str) -> dict[str, Any]:
        """Trigger, wait, show."""
        run_id = self.trigger(name)
        self.wait([run_id])
        return self.show(run_id)

    def cancel(self, run_ids: Sequence[str]) -> None:
        """Cancel runs and wait for their end."""
        for run_id in run_ids:
            self.do(partial(runs.cancel_run, run_id=run_id, actor=ACTOR))
        self.wait(run_ids)


@contextmanager
def running_system(folder: Path | None = None, *, scheduler: bool = True) -> Iterator[System]:
    """A fresh home with Postgres, schema and scheduler; all of it goes at the end.

    Args:
        folder: Where the home is made; the disk below it decides what a commit costs. Default: the temporary folder.
        scheduler: Whether the scheduler process starts, too.
    """
    place = Path(tempfile.mkdtemp(prefix="agentflow-bench-", dir=folder))
    place.chmod(0o755)  # run as root, Postgres belongs to another user and must get in
    home, dags = place / "home", place / "dags"
    dags.mkdir()
    try:
        settings = Settings(home=home, dags_folder=dags, database_url="")
        with database(settings) as handle:
            migrate.upgrade(handle.url)
            system = System(home, handle.url, dags)
            try:
                if scheduler:
                    system.start_scheduler()
                yield system
            finally:
                system.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def wait_until(condition: Callable[[], bool], what: str, timeout: float = RUN_TIMEOUT) -> None:
    """Look until it is so.

    Raises:
        BenchmarkFailed: It was not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise BenchmarkFailed(f"waited {timeout:.0f} s in vain: {what}")
        time.sleep(POLL)


def seconds(moment: str) -> float:
    """A time of a document as seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp()


def first_start(run: Mapping[str, Any]) -> float:
    """When the first node of a run started, in seconds since the epoch."""
    return min(seconds(node["started_at"]) for node in run["nodes"])


def last_finish(run: Mapping[str, Any]) -> float:
    """When the last node of a run finished, in seconds since the epoch."""
    return max(seconds(node["finished_at"]) for node in run["nodes"])

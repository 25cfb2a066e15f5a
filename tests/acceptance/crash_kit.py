"""What the crash tests work with: real schedulers on a database, a run that keeps an outside journal, and the verdict."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from agentflow import runs
from agentflow.catalog import apply_spec
from agentflow.db.engine import make_engine, transact
from agentflow.postgres import libpq_url
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy

ROOT = Path(__file__).parents[2]
#: Environment variable by which processes that tests started are found again, however they came about.
MARK = "CRASH_TEST_SITE"

#: Each node tells the journal, which no transaction of ours can undo, when it began and ended.
NODE_CODE = """
import json, os, time

def main(journal, node, seconds, up):
    def note(what):
        line = json.dumps({"node": node, "pid": os.getpid(), "what": what, "at": time.time()}) + "\\n"
        fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)
    note("start")
    time.sleep(seconds)
    note("end")
    return node
"""


def until(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> Any:
    """Wait until `condition` is true; a database that is down means not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except psycopg.OperationalError:
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)


def blocks(count: int, *, fan: int = 20, chain: int = 4) -> dict[str, list[str]]:
    """A mixed graph: `count` times a head, a fan of `fan`, a chain of `chain`; node -> its upstreams."""
    graph: dict[str, list[str]] = {}
    last: list[str] = []
    for block in range(count):
        head = f"head_{block}"
        graph[head] = last
        fans = [f"fan_{block}_{number}" for number in range(fan)]
        graph |= {name: [head] for name in fans}
        last = fans
        for number in range(chain):
            name = f"chain_{block}_{number}"
            graph[name] = last
            last = [name]
    return graph


def document(name: str, graph: dict[str, list[str]], journal: Path, seconds: float) -> dict[str, Any]:
    """The workflow file of a graph whose nodes take `seconds` and keep the journal."""
    nodes = {}
    for node, needs in graph.items():
        up = [f"{{{{ nodes.{needed}.output }}}}" for needed in needs[:1]]
        arguments = {"journal": str(journal), "node": node, "seconds": seconds, "up": up}
        nodes[node] = {"type": "python", "needs": needs, "config": {"code": NODE_CODE, "args": arguments}}
    return {"name": name, "nodes": nodes}


@dataclass
class Site:
    """A database, and what a test started on it."""

    url: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        dags = self.folder / "dags"
        dags.mkdir(exist_ok=True)
        ours = {
            "AGENTFLOW_DATABASE_URL": self.url,
            "AGENTFLOW_HOME": str(self.folder / "home"),
            "AGENTFLOW_SECRET_KEY": "crash-tests-" + "x" * 32,
            "AGENTFLOW_DAGS_FOLDER": str(dags),
            "AGENTFLOW_EXECUTORS": "local",
            "AGENTFLOW_PARALLELISM": "4",
            "PYTHONPATH": str(ROOT),
            MARK: str(self.folder),
        }
        return clean | ours | more

    def popen(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python ARGUMENTS`; what it says goes to files of the folder, which the test's failure shows."""
        name = self.folder / f"process-{len(self.processes)}"
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=self.environment(**environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def scheduler(self, **environment: str) -> subprocess.Popen[bytes]:
        """A scheduler that takes part."""
        process = self.popen("-m", "scheduler", **environment)
        until(partial(self.alive, process), what="the scheduler started")
        return process

    def output(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has written on stdout."""
        return (self.folder / f"process-{self.processes.index(process)}.out").read_text()

    def said(self) -> str:
        """What all processes have written."""
        return "".join(f"\n== {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("process-*")))

    # -- the database --

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with psycopg.connect(
            libpq_url(self.url), autocommit=True, connect_timeout=5, row_factory=dict_row
        ) as connection:
            return connection.execute(query, parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        return next(iter(self.rows(query, *parameters)[0].values()))

    def schedulers(self, process: subprocess.Popen[bytes], *states: str) -> list[uuid.UUID]:
        """Ids under which a process takes part, or took part."""
        query = "SELECT id FROM scheduler WHERE pid = %s AND state = ANY(%s) ORDER BY id"
        return [row["id"] for row in self.rows(query, process.pid, list(states))]

    def alive(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"the scheduler ended with {process.returncode}"
        return bool(self.schedulers(process, "alive"))

    def start_run(self, graph: dict[str, list[str]], *, seconds: float, name: str = "crash") -> uuid.UUID:
        """Store the workflow and trigger it."""
        return self.start_spec(document(name, graph, self.journal, seconds))

    def start_spec(self, spec_document: dict[str, Any]) -> uuid.UUID:
        """The same with a document of one's own."""
        spec = parse_document(spec_document)
        name = spec.name
        engine = make_engine(self.url)
        try:
            transact(engine, partial(apply_spec, spec=spec, source="api", actor="test"))
            run = transact(
                engine, partial(runs.create_run, name=name, params={}, triggered_by=TriggeredBy.MANUAL, actor="test")
            )
        finally:
            engine.dispose()
        return uuid.UUID(str(run["id"]))

    def state(self, run_id: uuid.UUID) -> str:
        return str(self.value("SELECT state FROM run WHERE id = %s", run_id))

    def done(self, run_id: uuid.UUID) -> int:
        """How many node runs have succeeded."""
        return int(self.value("SELECT count(*) FROM node_run WHERE run_id = %s AND state = 'success'", run_id))

    def at_work(self, run_id: uuid.UUID, done: int) -> None:
        """Wait until the run is in its middle: `done` nodes ended and others under way."""
        until(lambda: self.done(run_id) >= done, what=f"{done} nodes done")
        assert self.state(run_id) == "running"

    def end(self, run_id: uuid.UUID, seconds: float = 40) -> None:
        """Wait for the run's end."""
        until(lambda: self.state(run_id) not in ("queued", "running"), seconds, "the end of the run")

    def open_attempts(self, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        query = """
            SELECT a.*, vn.node_id FROM attempt a
            JOIN node_run nr USING (run_id, node_no, map_index)
            JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
            WHERE a.scheduler_id = ANY(SELECT id FROM scheduler WHERE pid = %s)
              AND a.state IN ('queued', 'launching', 'running')"""
        return self.rows(query, process.pid)

    def attempts(self, run_id: uuid.UUID) -> list[dict[str, Any]]:
        query = """
            SELECT a.*, vn.node_id FROM attempt a
            JOIN node_run nr USING (run_id, node_no, map_index)
            JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
            WHERE a.run_id = %s ORDER BY a.node_no, a.map_index, a.attempt"""
        return self.rows(query, run_id)

    def events(self, run_id: uuid.UUID, kind: str) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM run_event WHERE run_id = %s AND kind = %s ORDER BY seq", run_id, kind)

    # -- the world outside --

    def notes(self, what: str) -> list[dict[str, Any]]:
        """Lines of the journal."""
        if not self.journal.exists():
            return []
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    def leftovers(self) -> list[psutil.Process]:
        """Living processes that came from here, by whatever way."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == str(self.folder)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def workers(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Runner processes of a scheduler: the children of its zygote."""
        zygotes = psutil.Process(process.pid).children()
        return [child for zygote in zygotes for child in zygote.children()]

    def stop(self, process: subprocess.Popen[bytes]) -> float:
        """SIGTERM; the seconds it took."""
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        return time.monotonic() - began

    def close(self) -> None:
        """End what is left, whatever the test was about."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        for left in self.leftovers():
            left.kill()


def check_aftermath(site: Site, run_id: uuid.UUID, graph: dict[str, list[str]]) -> collections.Counter[str]:
    """The promises, after any crash (ENGINE 3 and 6); returns how many attempts ended in each state."""
    run = site.rows("SELECT * FROM run WHERE id = %s", run_id)[0]
    assert (run["state"], run["open_nodes"], run["failed_leaves"]) == ("success", 0, 0)
    attempts = site.attempts(run_id)
    accepted = _check_attempts(attempts, graph)
    _check_journal(site, accepted, collections.Counter(row["node_id"] for row in attempts), graph)
    sequence = [row["seq"] for row in site.rows("SELECT seq FROM run_event WHERE run_id = %s ORDER BY seq", run_id)]
    assert sequence == list(range(1, run["event_seq"] + 1)), "the run's history has gaps"
    assert site.events(run_id, "repaired") == []
    _check_counters(site, run_id)
    return collections.Counter(row["state"] for row in attempts)


def _check_attempts(attempts: Sequence[dict[str, Any]], graph: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    accepted: dict[str, dict[str, Any]] = {}
    for row in attempts:
        assert row["state"] in ("success", "lost"), (row["node_id"], row["attempt"], row["state"], row["error"])
        if row["state"] == "success":
            assert row["node_id"] not in accepted, f"two accepted successes of {row['node_id']}"
            accepted[row["node_id"]] = row
        else:
            assert row["error"]["message"], "a loss says why"
    assert accepted.keys() == graph.keys()
    numbers = collections.defaultdict(list)
    for row in attempts:
        numbers[row["node_id"]].append(row["attempt"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values()), "numbers have gaps"
    assert all(accepted[node]["attempt"] == len(found) for node, found in numbers.items())
    return accepted


def _check_journal(
    site: Site, accepted: dict[str, dict[str, Any]], attempts: collections.Counter[str], graph: dict[str, list[str]]
) -> None:
    starts, ends = site.notes("start"), site.notes("end")
    begun = collections.Counter(note["node"] for note in starts)
    for note in starts:
        node, at = note["node"], note["at"]
        assert at <= accepted[node]["finished_at"].timestamp(), f"{node} was started after its accepted success"
        for upstream in graph[node]:
            assert at >= accepted[upstream]["finished_at"].timestamp(), f"{node} was started before {upstream} ended"
    for node, row in accepted.items():
        assert 1 <= begun[node] <= attempts[node], f"{node}: more executions than attempts"
        first, last = row["started_at"].timestamp(), row["finished_at"].timestamp()
        own = [note for note in ends if note["node"] == node and first <= note["at"] <= last]
        assert own, f"{node}: the accepted attempt never ran"


def _check_counters(site: Site, run_id: uuid.UUID) -> None:
    wrong = site.rows(
        """
        SELECT vn.node_id, nr.state, nr.n_up, nr.up_success FROM node_run nr
        JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
        WHERE nr.run_id = %s AND (nr.state <> 'success' OR nr.up_success <> nr.n_up OR nr.up_failed <> 0
          OR nr.up_upstream_failed <> 0 OR nr.up_skipped <> 0)""",
        run_id,
    )
    assert wrong == []

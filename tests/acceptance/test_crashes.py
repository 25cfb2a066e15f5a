"""Kill any process at any moment: the run still ends right (DESIGN section 1, promise 1). Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentflow.db import migrate
from agentflow.postgres import EmbeddedPostgres
from agentflow.postgres.config import UNSAFE_FAST
from tests.acceptance.crash_kit import Site, blocks, check_aftermath, document, until
from tests.acceptance.standalone_kit import Standalone, kill_server

pytestmark = pytest.mark.chaos

GRAPH = blocks(8)  # 200 nodes
TAKEN_OVER = 10.5  # seconds: dead after 8, looked for every 2, and a moment


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    """A database on the tests' server; nothing that ran on it may be left."""
    site = Site(database_url, tmp_path)
    yield site
    print(site.said())
    site.close()


@pytest.fixture
def own_postgres(open_home: Path) -> Iterator[EmbeddedPostgres]:
    """A server that may be killed."""
    postgres = EmbeddedPostgres(open_home, settings=UNSAFE_FAST)
    postgres.attach()
    yield postgres
    postgres.detach()


@pytest.fixture
def own_site(own_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Site]:
    """A database that may be killed."""
    migrate.upgrade(own_postgres.url)
    site = Site(own_postgres.url, tmp_path)
    yield site
    print(site.said())
    site.close()


def test_another_scheduler_takes_over_after_a_kill(site: Site) -> None:
    first = site.scheduler()
    run = site.start_run(GRAPH, seconds=0.05)
    site.at_work(run, 60)
    until(lambda: len(site.open_attempts(first)) >= 2, what="the first one has attempts")
    first.kill()
    first.wait()
    sessions = """SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'agentflow-scheduler'"""
    until(lambda: not site.rows(sessions), what="its last commit is through")
    left = {(row["node_id"], row["attempt"]) for row in site.open_attempts(first)}
    second = site.scheduler()
    until(lambda: not site.open_attempts(first), TAKEN_OVER, "its attempts are taken over")
    site.end(run)

    states = check_aftermath(site, run, GRAPH)
    lost = {(row["node_id"], row["attempt"]) for row in site.attempts(run) if row["state"] == "lost"}
    assert lost == left
    assert states["lost"] == len(left)
    assert site.stop(second) < 5
    assert site.leftovers() == []


def test_a_kill_leaves_waits_as_they_are(site: Site, tmp_path: Path) -> None:
    """A wait for a time and looks at a file go on under another scheduler; nothing of them is lost."""
    nodes = {
        "nap": {"type": "wait", "config": {"for": "6s"}},
        "file": {"type": "wait", "config": {"file": str(tmp_path / "come"), "poke_interval": "3s", "timeout": "1m"}},
    }
    run = site.start_spec({"name": "waits", "nodes": nodes})
    first = site.scheduler()
    waiting = "SELECT FROM node_run WHERE run_id = %s AND state = 'deferred'"
    until(lambda: len(site.rows(waiting, run)) == 2, what="both wait")
    first.kill()
    first.wait()
    (tmp_path / "come").touch()
    second = site.scheduler()
    site.end(run)
    assert site.state(run) == "success"
    assert [(row["node_id"], row["attempt"], row["state"]) for row in site.attempts(run)] == [
        ("nap", 1, "success"),
        ("file", 1, "success"),
    ]
    query = """SELECT vn.node_id, o.value ->> 'waited_s' AS waited FROM output o
        JOIN node_run nr USING (run_id, node_no, map_index)
        JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no WHERE o.run_id = %s"""
    waited = {row["node_id"]: float(row["waited"]) for row in site.rows(query, run)}
    assert waited["nap"] >= 6
    assert waited["file"] >= 3  # from its first look, under the scheduler that was killed
    assert site.stop(second) < 5
    assert site.leftovers() == []


def test_a_killed_worker_process_costs_one_attempt_only(site: Site) -> None:
    scheduler = site.scheduler()
    run = site.start_run(GRAPH, seconds=0.05)
    killed: set[int] = set()
    for done in (40, 80, 120):
        site.at_work(run, done)
        busy = {note["pid"] for note in site.notes("start")}
        worker = until(lambda: next((w for w in site.workers(scheduler) if w.pid in busy - killed), None))  # noqa: B023
        worker.kill()
        killed.add(worker.pid)
    site.end(run)
    states = check_aftermath(site, run, GRAPH)
    assert states["lost"] <= 3
    assert site.stop(scheduler) < 5
    assert site.leftovers() == []


def test_a_killed_postgres_loses_nothing_that_it_had_confirmed(own_site: Site, own_postgres: EmbeddedPostgres) -> None:
    scheduler = own_site.scheduler()
    run = own_site.start_run(GRAPH, seconds=0.05)
    for done in (40, 100):
        own_site.at_work(run, done)
        kill_server(own_postgres.home)
        assert own_postgres.ensure_running() == own_site.url
    own_site.end(run)
    states = check_aftermath(own_site, run, GRAPH)
    # A claim whose confirmation was lost with the server: its attempts were never handed out.
    assert states["lost"] <= 8
    assert own_site.schedulers(scheduler, "alive") == own_site.schedulers(scheduler, "alive", "dead")
    assert own_site.stop(scheduler) < 5
    assert own_site.leftovers() == []


def test_schedulers_go_on_after_an_outage_longer_than_their_lease(
    own_site: Site, own_postgres: EmbeddedPostgres
) -> None:
    graph = {f"node_{number}": [] for number in range(8)}
    schedulers = [own_site.scheduler(AGENTFLOW_PARALLELISM="4") for _ in range(2)]
    run = own_site.start_run(graph, seconds=11)
    until(lambda: len(own_site.notes("start")) == 8, what="all nodes run")
    kill_server(own_postgres.home)
    down_until = time.monotonic() + 9
    until(lambda: time.monotonic() > down_until)
    own_postgres.ensure_running()
    own_site.end(run)
    states = check_aftermath(own_site, run, graph)
    assert states["lost"] == 0
    for scheduler in schedulers:
        assert len(own_site.schedulers(scheduler, "alive", "dead")) == 1
        os.kill(scheduler.pid, signal.SIGTERM)
    for scheduler in schedulers:
        assert scheduler.wait(6) == 0
    assert own_site.leftovers() == []


def test_a_scheduler_stopped_for_long_starts_nothing_that_others_have_taken_over(site: Site) -> None:
    sleeper, other = site.scheduler(), site.scheduler()
    run = site.start_run(GRAPH, seconds=0.1)
    site.at_work(run, 30)

    def stopped_at_work() -> bool:
        """It sleeps while a node of its has ended that it could not tell of."""
        os.kill(sleeper.pid, signal.SIGSTOP)
        late = time.monotonic() + 0.3
        while time.monotonic() < late:
            ended = {note["node"] for note in site.notes("end")}
            if ended & {row["node_id"] for row in site.open_attempts(sleeper)}:
                return True
            time.sleep(0.02)
        os.kill(sleeper.pid, signal.SIGCONT)
        return False

    until(stopped_at_work, what="it sleeps with late results")
    asleep = time.monotonic()
    old_ids = site.schedulers(sleeper, "alive")
    held = {row["node_id"] for row in site.open_attempts(sleeper)}
    until(lambda: not site.open_attempts(sleeper), TAKEN_OVER, "its attempts are taken over")
    until(lambda: time.monotonic() > asleep + 12, 15)
    site.end(run)
    before = {(note["node"], note["pid"], note["at"]) for note in site.notes("start")}
    os.kill(sleeper.pid, signal.SIGCONT)
    new_ids = until(lambda: site.schedulers(sleeper, "alive"), what="it goes on under a new id")

    assert not set(new_ids) & set(old_ids)
    assert site.schedulers(sleeper, "dead") == old_ids
    until(lambda: site.events(run, "refused"), what="late results are recorded")
    assert {(note["node"], note["pid"], note["at"]) for note in site.notes("start")} == before
    check_aftermath(site, run, GRAPH)
    refused = site.events(run, "refused")
    assert {event["detail"]["reported"] for event in refused} <= {"success", "lost", "started"}
    assert {event["detail"]["attempt_state"] for event in refused} == {"lost"}
    assert len(refused) <= len(held)

    assert site.stop(other) < 5
    small = blocks(1, fan=5, chain=1)
    site.journal.unlink()
    site.end(site.start_run(small, seconds=0.01, name="later"), 10)  # it is as good as new
    assert site.stop(sleeper) < 5
    assert site.leftovers() == []


def test_two_schedulers_share_a_run_without_a_node_twice(site: Site) -> None:
    graph = blocks(4, fan=120)  # 500 nodes
    schedulers = [site.scheduler(AGENTFLOW_LOG_LEVEL="WARNING") for _ in range(2)]
    rounds = []
    for number in range(3):
        site.journal.unlink(missing_ok=True)
        run = site.start_run(graph, seconds=0, name=f"round_{number}".replace("_", "-"))
        site.end(run)
        assert check_aftermath(site, run, graph) == {"success": 500}
        rounds.append(run)
    owners = site.value("SELECT count(DISTINCT scheduler_id) FROM attempt WHERE run_id = ANY(%s)", rounds)
    assert owners == 2
    for scheduler in schedulers:
        assert site.stop(scheduler) < 5
    assert site.leftovers() == []


def test_a_scheduler_that_is_asked_to_stop_lets_its_attempts_end_and_another_one_goes_on(site: Site) -> None:
    # Given two schedulers at work
    nodes = [f"node_{number}" for number in range(40)]
    graph = {node: [] for node in nodes} | {"last": nodes}
    first, second = site.scheduler(), site.scheduler()
    run = site.start_run(graph, seconds=0.5)
    until(lambda: len(site.open_attempts(first)) >= 2, what="nodes run")
    # When the first is asked to stop
    assert site.stop(first) < 4
    assert first.returncode == 0
    # Then what it had begun has ended well, and the other one does the rest: nothing was lost
    site.end(run)
    assert site.schedulers(first, "stopped")
    ended = site.attempts(run)
    assert {row["state"] for row in ended} <= {"success", "refused"}
    assert {row["error"]["type"] for row in ended if row["state"] == "refused"} <= {"Returned"}
    assert site.value("SELECT sum(losses) FROM node_run WHERE run_id = %s", run) == 0
    assert {row["scheduler_id"] for row in ended if row["node_id"] == "last"} == set(site.schedulers(second, "alive"))
    assert len(site.notes("start")) == len(site.notes("end")) == len(graph)
    assert site.stop(second) < 5
    assert site.leftovers() == []


def test_attempts_that_run_longer_than_the_grace_are_recorded_as_lost(site: Site) -> None:
    graph = {"quick": [], **{f"slow_{number}": [] for number in range(3)}, "last": ["slow_0", "slow_1", "slow_2"]}
    first = site.scheduler(AGENTFLOW_SHUTDOWN_GRACE="1")
    run = site.start_run(graph, seconds=4)
    until(lambda: len(site.notes("start")) == 4, what="nodes run")
    assert site.stop(first) < 5
    assert first.returncode == 0
    assert site.leftovers() == []
    assert site.schedulers(first, "stopped")
    ended = site.attempts(run)
    assert {row["state"] for row in ended} == {"lost"}
    assert {row["error"]["type"] for row in ended} == {"Shutdown"}
    second = site.scheduler()
    until(lambda: len(site.notes("start")) == 8, 3, "they run again at once")
    site.end(run)
    assert check_aftermath(site, run, graph)["lost"] == 4
    assert site.stop(second) < 5


def test_a_scheduler_stops_in_time_while_it_reads_a_file_that_never_ends(site: Site) -> None:
    reading = site.folder / "reading"
    dags = site.folder / "dags"
    dags.mkdir()
    loop = f"import os, time\nfrom agentflow import workflow\nopen({str(reading)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    (dags / "endless.py").write_text(loop)
    scheduler = site.scheduler()
    child = int(until(lambda: reading.exists() and reading.read_text(), what="the file is being read"))
    assert site.stop(scheduler) < 5
    assert scheduler.returncode == 0
    assert site.schedulers(scheduler, "stopped")
    assert not psutil.pid_exists(child)


def run_file(
    site: Site, graph: dict[str, list[str]], *, seconds: float, begun: int
) -> tuple[subprocess.Popen[bytes], uuid.UUID]:
    """`agentflow run FILE` at work, when `begun` nodes have begun: the process and the run's id."""
    file = site.folder / "adhoc.yaml"
    file.write_text(json.dumps(document("adhoc", graph, site.journal, seconds)))
    process = site.popen("-m", "agentflow", "run", str(file), "--json")
    until(lambda: len(site.notes("start")) >= begun, what="nodes run")
    run = site.value("SELECT id FROM run WHERE triggered_by = 'cli'")
    return process, run


def test_another_scheduler_finishes_a_run_file_that_was_killed(site: Site) -> None:
    other = site.scheduler()
    graph = blocks(1, fan=6, chain=2)
    process, run = run_file(site, graph, seconds=0.5, begun=4)
    reserved_for = site.schedulers(process, "alive")
    assert [site.value("SELECT reserved_for FROM run WHERE id = %s", run)] == reserved_for
    assert {row["scheduler_id"] for row in site.attempts(run)} == set(reserved_for)
    process.kill()
    process.wait()
    site.end(run)
    states = check_aftermath(site, run, graph)
    assert states["lost"] >= 1
    assert site.value("SELECT reserved_for FROM run WHERE id = %s", run) is None
    assert site.stop(other) < 5
    assert site.leftovers() == []


def test_ctrl_c_cancels_a_run_file_and_waits_for_its_end(site: Site) -> None:
    process, run = run_file(site, {"first": [], "second": [], "last": ["first"]}, seconds=20, begun=2)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    said = json.loads(site.output(process))
    assert (said["id"], said["state"]) == (str(run), "cancelled")
    assert site.state(run) == "cancelled"
    assert [row["state"] for row in site.attempts(run)] == ["cancelled", "cancelled"]
    assert {node["state"] for node in said["nodes"]} == {"cancelled"}
    assert site.leftovers() == []


def test_a_second_ctrl_c_leaves_a_run_file_at_once(site: Site) -> None:
    stubborn = """
import signal, time

def main(journal):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(journal, "a").write('{"what": "start", "node": "deaf"}\\n')
    time.sleep(60)
"""
    file = site.folder / "deaf.yaml"
    node = {"type": "python", "config": {"code": stubborn, "args": {"journal": str(site.journal)}}}
    file.write_text(json.dumps({"name": "deaf", "nodes": {"deaf": node}}))
    process = site.popen("-m", "agentflow", "run", str(file))
    until(lambda: site.notes("start"), what="the node runs")
    run = site.value("SELECT id FROM run")
    process.send_signal(signal.SIGINT)
    until(
        lambda: site.value("SELECT cancel_requested_at FROM run WHERE id = %s", run), what="the run is being cancelled"
    )
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert time.monotonic() - began < 3  # the grace of a shutdown alone would take as long
    assert site.state(run) == "cancelled"
    until(lambda: site.leftovers() == [], 2)


@pytest.fixture
def standalone(open_home: Path, tmp_path: Path) -> Iterator[Standalone]:
    """Starts `agentflow standalone` on a home of its own."""
    standalone = Standalone(Site("", tmp_path), open_home)
    yield standalone
    print(standalone.site.said())
    standalone.close()


def test_standalone_runs_a_workflow_through_the_death_of_its_parts(standalone: Standalone) -> None:
    graph = blocks(8)
    process = standalone.start()
    site = standalone.site
    file = site.folder / "flow.yaml"
    file.write_text(json.dumps(document("flow", graph, site.journal, 0.05)))
    applied = standalone.agentflow("apply", str(file))
    assert applied["items"] == [{"name": "flow", "version": 1, "changed": True, "created": True}]
    run = uuid.UUID(standalone.agentflow("trigger", "flow")["id"])

    site.at_work(run, 40)
    scheduler = standalone.scheduler(process)
    scheduler.kill()
    until(lambda: standalone.scheduler(process).pid != scheduler.pid, what="another scheduler")
    site.at_work(run, site.done(run) + 20)
    kill_server(standalone.home)
    site.end(run)
    check_aftermath(site, run, graph)
    shown = standalone.agentflow("runs", "show", str(run))
    assert (shown["state"], len(shown["nodes"])) == ("success", 200)

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert standalone.leftovers() == []


def test_a_killed_standalone_leaves_nothing_and_the_next_one_goes_on(standalone: Standalone) -> None:
    graph = blocks(2, fan=10)
    process = standalone.start()
    site = standalone.site
    run = site.start_run(graph, seconds=0.2)
    site.at_work(run, 5)
    process.kill()
    process.wait()
    until(lambda: site.leftovers() == [], 5, "the scheduler and its runners end by themselves")
    again = standalone.start()
    site.end(run)
    check_aftermath(site, run, graph)
    again.send_signal(signal.SIGTERM)
    assert again.wait(10) == 0
    assert standalone.leftovers() == []

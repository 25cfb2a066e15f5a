"""`standalone` as a process: it starts, shows, restarts and ends what it supervises, which are small fakes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from agentflow.errors import SettingsError
from agentflow.locks import FileLock
from agentflow.settings import Settings
from agentflow.supervisor import run_standalone

ROOT = Path(__file__).parents[2]

#: Beats in the scheduler table, writes its process id down, obeys the way its argument says.
FAKE_SCHEDULER = """
import os, signal, sys, time, uuid
from pathlib import Path
import psycopg
from agentflow import lifeline

mode, journal = sys.argv[1], Path(sys.argv[2])
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
lifeline.watch(grace=1)
with journal.open("a") as file:
    file.write(f"{os.getpid()}\\n")
if mode == "broken":
    sys.exit(3)
me = uuid.uuid4()
url = os.environ["AGENTFLOW_DATABASE_URL"].replace("+psycopg", "")
while True:
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO scheduler (id, hostname, pid, state, executors, queues, parallelism) "
                "VALUES (%s, 'here', %s, 'alive', '{}', '{default}', 1) ON CONFLICT (id) DO NOTHING", [me, os.getpid()])
            while True:
                connection.execute("UPDATE scheduler SET beat_at = now() WHERE id = %s", [me])
                time.sleep(0.1)
    except psycopg.OperationalError:
        time.sleep(0.05)
"""

#: Answers as the webserver does, on its port.
FAKE_WEBSERVER = """
import os, signal
from agentflow import lifeline
from agentflow.health import HealthServer
from agentflow.readiness import readiness

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
lifeline.watch(grace=1)
port = int(os.environ["AGENTFLOW_WEB_PORT"])
HealthServer("127.0.0.1", port, lambda: readiness(os.environ["AGENTFLOW_DATABASE_URL"])).start()
while True:
    signal.pause()
"""

STANDALONE = """
import sys
from agentflow.errors import AgentFlowError
from agentflow.settings import load_settings
from agentflow.supervisor import run_standalone
try:
    web, *command = sys.argv[1:]
    sys.exit(run_standalone(load_settings(), port=0, open_browser=False, scheduler=[sys.executable, *command],
        webserver=[sys.executable, web]))
except AgentFlowError as error:
    sys.stderr.write(f"{error}\\n{error.hint}\\n")
    sys.exit(error.exit_code)
"""


@dataclass
class Standalone:
    """A running `standalone` and what it left in its home."""

    process: subprocess.Popen[str]
    home: Path
    journal: Path
    said: str = ""  #: Until it was ready.

    @property
    def address(self) -> str:
        return json.loads((self.home / "standalone.json").read_text())["address"]

    @property
    def scheduler(self) -> int:
        """Process id of the scheduler started last."""
        return int(self.journal.read_text().split()[-1])

    @property
    def postmaster(self) -> int:
        return int((self.home / "postgres/data/postmaster.pid").read_text().splitlines()[0])

    def ready(self) -> bool:
        return get(f"{self.address}/readyz")[0] == 200

    def until_ready(self) -> None:
        """Wait for the line that says so."""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Ready"):
                return
        pytest.fail(f"ended with {self.process.wait()}: {self.process.stderr.read()}")

    def stop(self, number: int) -> tuple[int, float]:
        """Exit code and seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - began


def get(url: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def answers(system: Standalone) -> bool:
    try:
        return get(f"{system.address}/healthz")[0] == 200
    except OSError:
        return False


def postgres_alive(home: Path) -> bool:
    lock = FileLock(home / "postgres.alive")
    free = lock.try_acquire("shared")
    lock.release()
    return not free


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def start(open_home: Path, tmp_path: Path) -> Iterator[Callable[..., Standalone]]:
    """Starts `standalone` with a fake scheduler; everything is ended after the test."""
    started: list[Standalone] = []
    fake = tmp_path / "fake_scheduler.py"
    fake.write_text(FAKE_SCHEDULER)
    web = tmp_path / "fake_webserver.py"
    web.write_text(FAKE_WEBSERVER)

    def start(mode: str = "obedient", **environment: str) -> Standalone:
        journal = tmp_path / f"journal-{len(started)}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        process = subprocess.Popen(
            [sys.executable, "-c", STANDALONE, str(web), str(fake), mode, str(journal)],
            env=clean | {"AGENTFLOW_HOME": str(open_home), "PYTHONPATH": str(ROOT)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(Standalone(process, open_home, journal))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
        if each.journal.exists():
            for pid in each.journal.read_text().split():
                until(partial(gone, int(pid)))
    if postgres_alive(open_home):
        psutil.Process(started[0].postmaster).kill()
        until(lambda: not postgres_alive(open_home))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_gets_ready_and_a_signal_ends_everything_within_five_seconds(start, number: signal.Signals) -> None:
    system = start()
    system.until_ready()
    assert get(f"{system.address}/healthz") == (200, {"status": "alive"})
    status, document = get(f"{system.address}/readyz")
    assert (status, document["status"]) == (200, "ready")
    assert [check["name"] for check in document["checks"]] == ["database", "migrations", "scheduler"]
    assert f"{system.address}/login#token=afl_" in system.said
    key = system.home / "secret_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text()) >= 32
    scheduler = system.scheduler

    code, seconds = system.stop(number)

    assert code == 0
    assert seconds < 5
    assert gone(scheduler)
    until(lambda: not postgres_alive(system.home))  # on a busy machine it goes on shutting down by itself
    assert "Stopped." in system.process.stdout.read()


def test_a_scheduler_that_does_not_end_is_killed_within_the_five_seconds(start) -> None:
    system = start("stubborn")
    system.until_ready()
    scheduler = system.scheduler
    code, seconds = system.stop(signal.SIGTERM)
    assert (code, gone(scheduler)) == (0, True)
    assert seconds < 6  # the machine may be busy
    until(lambda: not postgres_alive(system.home))


def test_a_second_signal_kills_at_once(start) -> None:
    system = start("stubborn")
    system.until_ready()
    scheduler = system.scheduler
    system.process.send_signal(signal.SIGINT)
    assert any(line.startswith("Stopping") for line in system.process.stdout)
    began = time.monotonic()
    # One that follows at once is the same wish (make and uv repeat the terminal's); a later one is meant.
    while system.process.poll() is None and time.monotonic() - began < 3:
        system.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert system.process.wait(5) == 130
    assert time.monotonic() - began < 3
    assert gone(scheduler)
    until(lambda: not postgres_alive(system.home))


def test_a_killed_scheduler_is_started_again(start) -> None:
    system = start()
    system.until_ready()
    first = system.scheduler
    os.kill(first, signal.SIGKILL)
    until(lambda: system.scheduler != first)
    until(system.ready)
    assert system.stop(signal.SIGTERM)[0] == 0


def test_a_killed_webserver_is_started_again_and_the_scheduler_left_alone(start) -> None:
    system = start()
    system.until_ready()
    scheduler = system.scheduler
    web = next(
        child for child in psutil.Process(system.process.pid).children() if "fake_webserver" in child.cmdline()[-1]
    )
    web.kill()
    until(lambda: not web.is_running() or web.status() == psutil.STATUS_ZOMBIE)
    until(lambda: answers(system))
    assert system.scheduler == scheduler
    assert system.stop(signal.SIGTERM)[0] == 0


def test_a_taken_port_is_named(open_home: Path) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        port = rival.getsockname()[1]
        with pytest.raises(SettingsError, match=f"Port {port} "):
            run_standalone(Settings(home=open_home), port=port, open_browser=False)
    assert not (open_home / "standalone.json").exists()


def test_a_killed_postgres_is_started_again(start) -> None:
    system = start()
    system.until_ready()
    first, scheduler = system.postmaster, system.scheduler
    os.kill(first, signal.SIGKILL)
    until(lambda: (system.home / "postgres/data/postmaster.pid").exists() and system.postmaster != first)
    until(system.ready)
    assert system.scheduler == scheduler  # which lives on: the address is the same
    assert system.stop(signal.SIGTERM)[0] == 0
    assert not postgres_alive(system.home)


def test_a_scheduler_that_always_dies_is_started_ever_less_often_and_never_ready(start) -> None:
    system = start("broken")
    until(lambda: system.journal.exists() and len(system.journal.read_text().split()) >= 3)
    assert system.process.poll() is None
    until(lambda: answers(system))
    status, document = get(f"{system.address}/readyz")
    assert (status, document["checks"][-1]) == (503, {"name": "scheduler", "ok": False, "detail": "0 alive"})
    assert get(f"{system.address}/healthz")[0] == 200
    assert system.stop(signal.SIGTERM)[0] == 0


def test_a_killed_supervisor_takes_the_scheduler_with_it_and_the_next_one_takes_over(start) -> None:
    system = start()
    system.until_ready()
    scheduler = system.scheduler
    system.process.kill()
    until(lambda: gone(scheduler))
    later = start()
    later.until_ready()
    assert later.stop(signal.SIGTERM)[0] == 0
    assert not postgres_alive(later.home)


def test_a_scheduler_deaf_to_its_lifeline_is_killed_by_it(start) -> None:
    system = start("stubborn")
    system.until_ready()
    scheduler = system.scheduler
    system.process.kill()
    until(lambda: gone(scheduler))


def test_a_second_one_on_the_same_home_is_told_where_the_first_is(start) -> None:
    first = start()
    first.until_ready()
    second = start()
    out, err = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert "already running" in err
    assert first.address in err
    assert out == ""
    assert first.ready()
    assert first.stop(signal.SIGTERM)[0] == 0


def test_a_signal_during_the_start_leaves_nothing_behind(start) -> None:
    system = start()
    system.process.stdout.readline()  # "Starting": the database comes next
    until((system.home / "postgres.start").exists)
    code, seconds = system.stop(signal.SIGINT)
    assert (code, system.journal.exists()) == (0, False)
    assert seconds < 5.5
    assert not postgres_alive(system.home)


def test_a_database_of_the_users_own_is_used_and_none_is_started(start, empty_database_url: str) -> None:
    system = start(AGENTFLOW_DATABASE_URL=empty_database_url)
    system.until_ready()
    assert not (system.home / "postgres").exists()
    assert system.stop(signal.SIGTERM)[0] == 0


def test_a_database_that_does_not_answer_is_exit_code_3_without_its_password(start) -> None:
    system = start(AGENTFLOW_DATABASE_URL="postgresql://somebody:hunter2@127.0.0.1:1/nothing")
    out, err = system.process.communicate(timeout=30)
    assert system.process.returncode == 3
    assert "cannot be reached" in err
    assert "hunter2" not in out + err

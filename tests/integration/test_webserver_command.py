"""`agentflow webserver`: from the command line to a server that answers, and to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

import psutil
import pytest

from tests.live_kit import free_port, until


@pytest.fixture
def run(tmp_path):
    """Starts the command; ends it."""
    started = []

    def run(*arguments: str, **settings: str):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFLOW_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "agentflow", "webserver", *arguments],
            env=clean | {f"AGENTFLOW_{name}": value for name, value in settings.items()},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
        process.communicate()


def answers(process, port: int, path: str = "/healthz"):
    assert process.poll() is None, process.communicate()
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
        return json.load(reply)
    return None


def test_it_serves_on_the_port_that_was_asked_for_until_it_is_told_to_stop(run, database_url, tmp_path) -> None:
    port = free_port()
    process = run("--port", str(port), "--json", HOME=str(tmp_path), SECRET_KEY="k" * 40, DATABASE_URL=database_url)
    assert until(lambda: answers(process, port), "an answer", 60) == {"status": "alive"}
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(said) == {"address": f"http://127.0.0.1:{port}", "pid": process.pid}


def test_its_log_tells_each_request_by_the_id_that_its_answer_and_its_run_carry(run, database_url, tmp_path) -> None:
    port = free_port()
    settings = {"HOME": str(tmp_path), "SECRET_KEY": "k" * 40, "DATABASE_URL": database_url, "LOG_FORMAT": "json"}
    process = run("--port", str(port), **settings)
    until(lambda: answers(process, port), "an answer", 60)
    address = f"http://127.0.0.1:{port}/api/v1/openapi.json?password=hush"
    asked = urllib.request.Request(address, headers={"X-Request-Id": "request-0123"})
    with urllib.request.urlopen(asked, timeout=30) as reply:
        assert reply.headers["X-Request-Id"] == "request-0123"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    lines = [json.loads(line) for line in said.splitlines()]  # every line of it is JSON
    (told,) = (line for line in lines if line["event"] == "request" and line["request_id"] == "request-0123")
    assert (told["method"], told["path"], told["status"]) == ("GET", "/api/v1/openapi.json", 200)
    assert "hush" not in said


def test_an_external_database_needs_a_key(run, database_url, tmp_path) -> None:
    process = run(HOME=str(tmp_path), DATABASE_URL=database_url)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "AGENTFLOW_SECRET_KEY" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_database_it_uses_the_embedded_one(run, open_home, number) -> None:
    port = free_port()
    process = run("--port", str(port), HOME=str(open_home))
    until(lambda: answers(process, port), "an answer", 90)
    process.send_signal(number)
    assert process.wait(40) == 0
    assert not (open_home / "postgres/data/postmaster.pid").exists()

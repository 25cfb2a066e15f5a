"""Floods: of log text, of lines, of output, and a disk without space for logs. Nothing else suffers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text

MIB = 2**20

FLOOD = """
def main():
    line = "x" * 1023
    for _ in range(1024 * 1024):
        print(line)
"""
SHORT = """
def main():
    for number in range(1_000_000):
        print(number)
"""
CHAIN = {
    f"n{i}": {"type": "python", "needs": [f"n{i - 1}"] if i else [], "config": {"code": "def main():\n    return 1\n"}}
    for i in range(20)
}


def document(name: str, nodes: dict) -> str:
    return json.dumps({"name": name, "nodes": nodes})


def python(code: str, **more) -> dict:
    return {"type": "python", "config": {"code": code}, **more}


def database_size(engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT pg_database_size(current_database())"))


@pytest.fixture
def scheduler(environment):
    """`agentflow scheduler` beside the test; ends with it."""
    with subprocess.Popen(
        [sys.executable, "-m", "agentflow", "scheduler", "--json"],
        env=os.environ | {"AGENTFLOW_PARALLELISM": "4", "AGENTFLOW_LOG_LEVEL": "WARNING"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said = process.stdout.readline()
        assert json.loads(said)["pid"] == process.pid
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""  # the one document was all


def median_gap(run: dict) -> float:
    """Seconds between the end of a node of the chain and the start of the next."""
    nodes = run["nodes"]
    gaps = [
        (datetime.fromisoformat(after["started_at"]) - datetime.fromisoformat(before["finished_at"])).total_seconds()
        for before, after in pairwise(nodes)
    ]
    return sorted(gaps)[len(gaps) // 2]


def last_line(shell, run_id: str, node: str) -> dict:
    logged = shell("logs", run_id, node, "--json")
    assert logged.code == 0, logged.err
    return json.loads(logged.out.rstrip().rpartition("\n")[2])


def test_floods_of_text_and_of_lines_end_soon_cost_little_and_delay_nobody(
    write, cli, shell, engine, scheduler, capsys
):
    flood = {"bytes": python(FLOOD), "lines": python(SHORT, needs=["bytes"])}
    for name, nodes in (("flood", flood), ("chain", CHAIN)):
        assert cli("apply", write(f"{name}.json", document(name, nodes))).code == 0
    quiet = shell("trigger", "chain", "--wait", "--json").document
    before = database_size(engine)
    began = time.monotonic()
    flooding = cli("trigger", "flood", "--json").document["id"]
    beside = shell("trigger", "chain", "--wait", "--json").document
    assert beside["state"] == "success"  # meanwhile, whatever the other one prints
    done = shell("runs", "wait", flooding, "--json", timeout=60)
    assert (done.code, done.document["state"]) == (0, "success")
    assert time.monotonic() - began < 60
    grown = database_size(engine) - before
    assert grown < 20 * MIB
    with capsys.disabled():
        hops = f"hop {median_gap(quiet) * 1000:.1f} ms, beside a flood {median_gap(beside) * 1000:.1f} ms"
        print(f"\n[flood] {time.monotonic() - began:.1f} s, database +{grown / MIB:.1f} MiB, {hops}")
    for node, printed in (("bytes", 2**30), ("lines", 6_888_890)):  # what was printed, line ends included
        line = last_line(shell, flooding, node)
        assert (line["stream"], line["level"]) == ("system", "warning")
        words = line["text"].split()
        assert (words[0], words[2:]) == ("truncated:", ["bytes", "dropped"])
        # What is kept and what is dropped is all that was printed; kept lines cost at least 30 bytes each beside text.
        assert printed - 16 * MIB <= int(words[1]) < printed
    told = shell("logs", flooding, "bytes")
    assert told.out.rstrip().rpartition("\n")[2].endswith("bytes dropped")


BIG = "def main():\n    return 'x' * ({mib} * 2**20 - 2)\n"
COUNT = "def main(value):\n    return len(value)\n"


def test_large_outputs_pass_downstream_are_shown_as_references_and_have_a_limit(write, shell):
    whole = {f"big{i}": python(BIG.format(mib=16)) for i in range(5)}
    sizes = " + ".join(f"nodes.big{i}.output | length" for i in range(5))
    nodes = whole | {
        "under": python("def main():\n    return 'x' * (64 * 1024 - 2)\n"),
        "over": python("def main():\n    return 'x' * (64 * 1024 - 1)\n"),
        "count": {
            "type": "python",
            "needs": ["big0"],
            "config": {"code": COUNT, "args": {"value": "{{ nodes.big0.output }}"}},
        },
        "all": {"type": "template", "needs": list(whole), "config": {"template": "{{ " + sizes + " }}"}},
    }
    run = shell("run", write("large.json", document("large", nodes)), "--json", timeout=90)
    assert run.code == 1, run.err
    assert len(run.out) < MIB  # nobody wants 80 MiB on a terminal
    found = {node["node"]: node for node in run.document["nodes"]}
    assert found["under"]["output"] == "x" * (64 * 1024 - 2)
    assert set(found["over"]["output"]) == {"$ref", "bytes", "preview"}
    assert found["over"]["output"]["bytes"] == 64 * 1024 + 1
    assert found["big0"]["output"]["bytes"] == 16 * MIB
    assert found["big0"]["output"]["preview"].startswith('"xxx')
    assert found["count"]["output"] == 16 * MIB - 2
    assert found["all"]["state"] == "failed"
    assert found["all"]["error"]["type"] == "InputTooLarge"
    assert "over 64 MiB" in found["all"]["error"]["message"]
    assert "pass references" in found["all"]["error"]["message"]


# -- a disk that is full --------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(postgres_server, engine):
    """The logs of this month are on a file system of 2 MiB; gives its path."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("only root may mount a small file system")
    if postgres_server.embedded is None:
        pytest.skip("the server must be on this machine")
    folder = Path(tempfile.mkdtemp(prefix="agentflow-full-"))
    folder.chmod(0o755)
    space = folder / "space"
    space.mkdir()
    owner = (postgres_server.embedded.home / "postgres" / "data").stat()
    options = f"size=2m,uid={owner.st_uid},gid={owner.st_gid},mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(space)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip(f"no small file system: {mounted.stderr.decode().strip()}")
    name = f"tiny_{os.getpid()}"
    try:
        with postgres_server.admin() as admin:
            admin.execute(f"CREATE TABLESPACE {name} LOCATION '{space}'")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            parts = connection.scalars(
                text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_chunk'::regclass")
            ).all()
            for part in parts:
                connection.execute(text(f"ALTER TABLE {part} SET TABLESPACE {name}"))
        yield space
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("DROP TABLE log_chunk"))
        with postgres_server.admin() as admin:
            admin.execute(f"DROP TABLESPACE {name}")
    finally:
        subprocess.run(["umount", "-l", str(space)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


NOISE = """
import random
def main():
    for _ in range(150):
        print(random.randbytes(30_000).hex())
    return "done"
"""


def test_without_space_for_logs_attempts_succeed_and_the_log_says_what_is_missing(
    full_disk, write, cli, shell, scheduler
):
    nodes = {"first": python("def main():\n    print('before')\n"), "noise": python(NOISE, needs=["first"])}
    nodes["after"] = python("def main():\n    print('after')\n    return 1\n", needs=["noise"])
    assert cli("apply", write("full.json", document("full", nodes))).code == 0
    run = shell("trigger", "full", "--wait", "--json")
    assert (run.code, run.document["state"]) == (0, "success")
    assert {node["attempt"] for node in run.document["nodes"]} == {1}
    deadline = time.monotonic() + 20
    while True:
        lines = [json.loads(line) for line in shell("logs", run.document["id"], "noise", "--json").out.splitlines()]
        gaps = [line for line in lines if line["text"].startswith("gap: ")]
        if gaps or time.monotonic() > deadline:
            break
    assert gaps, "the log does not say that lines are missing"
    assert {(gap["stream"], gap["level"]) for gap in gaps} == {("system", "error")}
    assert "could not be stored: " in gaps[0]["text"]
    assert sum(len(line["text"]) == 60_000 for line in lines) < 150
    assert scheduler.poll() is None
    assert shell("trigger", "full", "--wait", "--json").document["state"] == "success"

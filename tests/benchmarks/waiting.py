"""1,000 http nodes in flight against a slow server: the time beside a bare loop of one process, and the memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import _workflows
import psutil
from _report import Report
from _single import single
from _system import ACTOR, BenchmarkFailed, System, last_finish, seconds
from idle import proportional_bytes

from agentflow import settings_store

FOLDER = Path(__file__).parent
MIB = 2**20
SAMPLE = 0.1  # seconds between looks at the memory
GOAL = 1024  # MB, all processes of AgentFlow together


def measure(system: System, report: Report, *, count: int = 1000, answer_after: float = 2.0, rounds: int = 2) -> None:
    """Add time, memory and nodes at once of the last of `rounds` runs; the first one opens the lanes."""
    with slow_server(answer_after) as url:
        bare_seconds, bare_bytes = _bare(url, count)
        name = system.apply(_workflow(system, url, count))
        for _ in range(rounds):
            with peak_memory(system.scheduler) as memory:
                run = system.run(name)
    took = last_finish(run) - seconds(run["created_at"])
    what = f"{count} http nodes, {answer_after:g} s each"
    limit_of = "httpx in one process"
    report.add(what, took, "s", limit=bare_seconds, limit_of=limit_of)
    report.add("  nodes at once", at_once(run), "", goal=count, better="higher")
    report.add(
        "  peak memory, all processes, RSS",
        memory["rss"] / MIB,
        "MB",
        goal=GOAL,
        limit=bare_bytes / MIB,
        limit_of=limit_of,
    )
    report.add("  the same, PSS", memory["pss"] / MIB, "MB")


def _workflow(system: System, url: str, count: int) -> dict[str, Any]:
    system.do(partial(settings_store.set_pool, name="bench-waiting", slots=count, actor=ACTOR))
    node = {"type": "http", "pool": "bench-waiting", "config": {"url": url}}
    return _workflows.independent("bench-waiting", count, node)


def at_once(run: dict[str, Any]) -> int:
    """The most nodes that were between start and end at one moment."""
    moments = [(seconds(node["started_at"]), 1) for node in run["nodes"]]
    moments += [(seconds(node["finished_at"]), -1) for node in run["nodes"]]
    now = most = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


@contextmanager
def slow_server(answer_after: float) -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, str(FOLDER / "_slow_server.py"), str(answer_after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


@contextmanager
def peak_memory(main: psutil.Process) -> Iterator[dict[str, int]]:
    """The most that a process and all below it held together, by bytes of `rss` and `pss`; looked at now and then."""
    peak = {"rss": 0, "pss": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE):
            family = [main, *main.children(recursive=True)]
            peak["rss"] = max(peak["rss"], sum(map(_resident, family)))
            peak["pss"] = max(peak["pss"], sum(map(proportional_bytes, family)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _bare(url: str, count: int) -> tuple[float, int]:
    """Seconds and peak bytes of a bare loop."""
    command = [sys.executable, str(FOLDER / "_bare_http.py"), url, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkFailed(f"the bare loop failed: {done.stderr[-1000:]}")
    took, peak = done.stdout.split()
    return float(took), int(peak)


if __name__ == "__main__":
    single(measure)

"""What a process per attempt costs: `subprocess` beside warm `local` processes and a bare process."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from _report import Report, median

from executors.base import Executor, ExecutorContext
from executors.conformance.harness import Harness
from executors.local import LocalExecutor
from executors.subprocess import SubprocessExecutor


def measure(report: Report, *, serial: int = 100, parallel: int = 400) -> None:
    """Add the cost of a node that does nothing: one after the other, and many at once."""
    bare = median([start_seconds([_program("true")]) for _ in range(serial)]) * 1000
    python = median([start_seconds([sys.executable, "-S", "-c", "pass"]) for _ in range(20)]) * 1000
    add = partial(report.add, unit="ms", limit=bare, limit_of="a bare process, true")
    figures: dict[str, tuple[float, float]] = {}
    for name, make in (("subprocess", SubprocessExecutor), ("local", LocalExecutor)):
        figures[name] = _executor_seconds(make, serial, parallel)
    for name, (one, each) in figures.items():
        add(f"{name}: a node, one after the other", one * 1000)
        add(f"{name}: a node, {parallel} at once", each * 1000)
    add("a process per node costs", (figures["subprocess"][0] - figures["local"][0]) * 1000)
    add("an interpreter per node would cost", python)


def _executor_seconds(make: Callable[[ExecutorContext], Executor], serial: int, parallel: int) -> tuple[float, float]:
    """Median seconds of one node, and seconds per node of many at once."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-bench-"))
    harness = Harness(make, folder, parallelism=len(os.sched_getaffinity(0)) * 2)
    try:
        harness.run(harness.workload())  # the zygote is there from here on
        alone = [_seconds(lambda: harness.run(harness.workload())) for _ in range(serial)]
        workloads = [harness.workload() for _ in range(parallel)]
        begin = time.perf_counter()
        harness.submit(*workloads)
        harness.wait_finished(workloads)
        return median(alone), (time.perf_counter() - begin) / parallel
    finally:
        harness.executor.stop(0)
        shutil.rmtree(folder, ignore_errors=True)


def start_seconds(command: Sequence[str]) -> float:
    """Wall time of a process that starts and ends; our own memory is not copied for it, however large it is."""
    return _seconds(lambda: _start_and_wait(list(command)))


def _start_and_wait(command: list[str]) -> None:
    _, status = os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)
    if status != 0:
        raise RuntimeError(f"{command[0]} ended with {status}")


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"there is no {name} on PATH")
    return found


if __name__ == "__main__":
    RESULT = Report(str(__doc__))
    measure(RESULT)
    RESULT.print()

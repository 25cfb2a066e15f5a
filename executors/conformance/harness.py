"""Drives one executor: submits workloads, waits with deadlines, keeps every event."""

from __future__ import annotations

import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from agentflow.ids import fencing_token, uuid7
from agentflow.workload import ExecutorEvent, Finished, Limits, LogChunk, Started, Workload
from executors.base import Executor, ExecutorContext

WAIT: Final = 30.0  # seconds; a healthy executor needs a fraction
GRACE: Final = 1.0  # seconds between SIGTERM and SIGKILL in these tests

T = TypeVar("T")
MakeExecutor = Callable[[ExecutorContext], Executor]


@dataclass(slots=True)
class Result:
    """Everything an executor said about one attempt."""

    events: list[ExecutorEvent] = field(default_factory=list)

    @property
    def finished(self) -> Finished:
        """The end; fails the test unless there is exactly one, and it is the last event."""
        ends = [event for event in self.events if isinstance(event, Finished)]
        assert len(ends) == 1, f"{len(ends)} Finished events"
        assert self.events[-1] is ends[0], "events after Finished"
        return ends[0]

    @property
    def output(self) -> Any:
        """The output as a value; fails the test if the attempt did not succeed."""
        assert self.finished.output is not None, self.finished
        return json.loads(self.finished.output)

    @property
    def chunks(self) -> list[LogChunk]:
        """Its log as it came."""
        return [event for event in self.events if isinstance(event, LogChunk)]

    @property
    def lines(self) -> list[tuple[int, float, str, str, str]]:
        """Its log as (seq, at, stream, level, text); fails the test if a number is missing."""
        rows: list[tuple[int, float, str, str, str]] = []
        for number, chunk in enumerate(self.chunks):
            assert chunk.chunk_no == number
            raw = zlib.decompress(chunk.data)
            assert len(raw) == chunk.raw_bytes
            new = [json.loads(line) for line in raw.split(b"\n")[:-1]]
            assert len(new) == chunk.lines
            assert new[0][0] == chunk.first_seq
            rows += [tuple(row) for row in new]
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        return rows

    @property
    def text(self) -> str:
        """Its log's text."""
        return "\n".join(row[4] for row in self.lines)


class Harness:
    """A started executor."""

    def __init__(self, make: MakeExecutor, folder: Path, *, parallelism: int = 4, **context: Any) -> None:
        self.folder = folder
        plain: dict[str, Any] = {"bundles_dir": folder / "bundles", "work_dir": folder / "work", "grace": GRACE}
        self.context = ExecutorContext(parallelism=parallelism, **(plain | context))
        self.executor = make(self.context)
        self.acknowledge = True  #: Whether log chunks are reported as stored.
        self._results: dict[str, Result] = {}
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._run_id = str(uuid7())
        self.executor.start(self._take)

    def _take(self, event: ExecutorEvent) -> None:
        with self._changed:
            self._results.setdefault(event.attempt_id, Result()).events.append(event)
            self._changed.notify_all()
        if isinstance(event, LogChunk) and self.acknowledge:
            event.stored()

    def workload(self, node_type: str = "noop", config: dict[str, Any] | None = None, **fields: Any) -> Workload:
        """A workload with plain values for everything that is not given."""
        number = next(self._numbers)
        limits = Limits(**fields.pop("limits", {}))
        plain: dict[str, Any] = {
            "attempt_id": f"{self._run_id}/{number}/-1/1",
            "token": fencing_token(),
            "run_id": self._run_id,
            "workspace": "default",
            "workflow": "conformance",
            "version": 1,
            "node": f"node_{number}",
            "attempt": 1,
            "type": node_type,
            "config": config or {},
            "context": {"params": {}, "nodes": {}, "run": {"id": self._run_id}, "vars": {}},
            "limits": limits,
        }
        return Workload(**(plain | fields))

    def python(self, body: str, **fields: Any) -> Workload:
        """A python node whose `main` has this body."""
        indented = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
        args = fields.pop("args", {})
        names = ", ".join(args)
        return self.workload("python", {"code": f"def main({names}):\n{indented}\n", "args": args}, **fields)

    def shell(self, command: str, **fields: Any) -> Workload:
        """A shell node."""
        return self.workload("shell", {"command": command} | fields.pop("config", {}), **fields)

    def submit(self, *workloads: Workload) -> None:
        """Hand over."""
        self.executor.submit(workloads)

    def result(self, workload: Workload) -> Result:
        """What has been said about it so far."""
        with self._changed:
            return self._results.setdefault(workload.attempt_id, Result())

    def run(self, workload: Workload, timeout: float = WAIT) -> Result:
        """Submit, and wait for the end."""
        self.submit(workload)
        return self.wait_finished([workload], timeout)[0]

    def wait_started(self, workload: Workload, timeout: float = WAIT) -> Started:
        """Wait until it runs."""

        def started() -> Started | None:
            events = self._results.get(workload.attempt_id, Result()).events
            return next((event for event in events if isinstance(event, Started)), None)

        return self._wait(started, timeout, "no Started")

    def wait_finished(self, workloads: Sequence[Workload], timeout: float = WAIT) -> list[Result]:
        """Wait until all have ended."""

        def ended() -> list[Result] | None:
            results = [self._results.get(workload.attempt_id, Result()) for workload in workloads]
            return results if all(map(_ended, results)) else None

        return self._wait(ended, timeout, "not finished")

    def wait_line(self, workload: Workload, text: str, timeout: float = WAIT) -> str:
        """Wait for a log line that contains the text; returns the line."""

        def line() -> str | None:
            found = self._results.get(workload.attempt_id, Result())
            return next((row[4] for row in found.lines if text in row[4]), None)

        return self._wait(line, timeout, f"no line with {text!r}")

    def _wait(self, condition: Callable[[], T | None], timeout: float, complaint: str) -> T:
        deadline = time.monotonic() + timeout
        with self._changed:
            while (value := condition()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    open_ones = {key: r for key, r in self._results.items() if not _ended(r)}
                    pytest.fail(f"{complaint} after {timeout} s; not ended: {open_ones}")
                self._changed.wait(left)
            return value


def _ended(result: Result) -> bool:
    return bool(result.events) and isinstance(result.events[-1], Finished)


class WithHarness:
    """Fixtures of every part of the suite."""

    #: Whether attempts are processes of this machine, so that tests may look at them from outside.
    local_processes = True

    @classmethod
    def make_executor(cls, context: ExecutorContext) -> Executor:
        """What is tested."""
        raise NotImplementedError("override make_executor")

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
        """One executor with room for four, shared by the tests: it must survive all of them."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://u:p@localhost/x")
            patch.setenv("AGENTFLOW_SECRET_KEY", "k" * 32)
            harness = Harness(cls.make_executor, tmp_path_factory.mktemp("executor"))
            yield harness
        harness.executor.stop(0)

    @pytest.fixture
    def make_harness(self, tmp_path: Path) -> Iterator[Callable[..., Harness]]:
        """Starts executors of a test's own and stops them at its end."""
        harnesses: list[Harness] = []

        def make(**context: Any) -> Harness:
            harnesses.append(Harness(self.make_executor, tmp_path / f"executor-{len(harnesses)}", **context))
            return harnesses[-1]

        yield make
        for harness in harnesses:
            harness.executor.stop(0)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_dead(pid: int, timeout: float = 10.0) -> None:
    """Fail the test unless the process ends in time."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while alive(pid):
        if time.monotonic() > deadline:
            pytest.fail(f"process {pid} is still alive after {timeout} s")
        pause.wait(0.02)  # there is no event for the end of somebody else's process

"""Timeout, cancel, lease, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentflow.workload import Outcome, Started
from executors.conformance.harness import GRACE, Harness, WithHarness, wait_dead

SLEEP = "import time\nprint('begun')\ntime.sleep(600)"
DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid())
while True:
    time.sleep(600)
"""


def _pid(line: str) -> int:
    return int(line.rsplit(maxsplit=1)[-1])


class Stopping(WithHarness):
    """How attempts are ended from outside."""

    @pytest.mark.parametrize(
        "body",
        ["import time\ntime.sleep(600)", "while True: pass", "import subprocess\nsubprocess.run(['sleep', '600'])"],
        ids=["sleeping", "busy", "child process"],
    )
    def test_a_timeout_fails_the_attempt(self, harness: Harness, body: str) -> None:
        begin = time.monotonic()
        result = harness.run(harness.python(body, limits={"timeout": 0.3}))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert result.finished.error.type == "Timeout"
        assert "0.3" in result.finished.error.message
        assert time.monotonic() - begin < 0.3 + GRACE + 5

    def test_an_attempt_within_its_timeout_is_left_alone(self, harness: Harness) -> None:
        assert harness.run(harness.python("return 1", limits={"timeout": 20})).output == 1

    def test_cancel_ends_a_running_attempt(self, harness: Harness) -> None:
        workload = harness.python(SLEEP)
        harness.submit(workload)
        harness.wait_line(workload, "begun")
        harness.executor.cancel([workload.attempt_id])
        assert harness.wait_finished([workload], GRACE + 5)[0].finished.outcome is Outcome.CANCELLED

    def test_cancel_lets_the_node_clean_up(self, harness: Harness) -> None:
        workload = harness.python(
            "import time\ntry:\n    print('begun')\n    time.sleep(600)\nfinally:\n    print('cleaned up')"
        )
        harness.submit(workload)
        harness.wait_line(workload, "begun")
        harness.executor.cancel([workload.attempt_id])
        assert "cleaned up" in harness.wait_finished([workload])[0].text

    def test_cancel_ends_an_attempt_that_ignores_sigterm(self, harness: Harness) -> None:
        workload = harness.python(DEAF)
        harness.submit(workload)
        pid = _pid(harness.wait_line(workload, "pid"))
        harness.executor.cancel([workload.attempt_id])
        assert harness.wait_finished([workload], GRACE + 5)[0].finished.outcome is Outcome.CANCELLED
        if self.local_processes:
            wait_dead(pid)

    def test_cancel_of_a_waiting_workload_ends_it_without_a_start(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness(parallelism=1)
        blocker, waiting = harness.python(SLEEP), harness.python("return 1")
        harness.submit(blocker, waiting)
        harness.wait_line(blocker, "begun")
        harness.executor.cancel([waiting.attempt_id])
        result = harness.wait_finished([waiting], 5)[0]
        assert result.finished.outcome is Outcome.CANCELLED
        assert result.finished.started_at is None
        assert not any(isinstance(event, Started) for event in result.events)

    def test_cancel_of_one_leaves_the_others_alone(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness(parallelism=1)
        warm = [harness.workload() for _ in range(50)]
        harness.submit(*warm)
        harness.wait_finished(warm)
        workloads = [harness.python(f"return {number}") for number in range(40)]
        harness.submit(*workloads)
        harness.executor.cancel([workload.attempt_id for workload in workloads[::2]])
        results = harness.wait_finished(workloads)
        assert [result.output for result in results[1::2]] == list(range(1, 40, 2))
        assert all(result.finished.outcome in (Outcome.CANCELLED, Outcome.SUCCESS) for result in results[::2])

    def test_cancel_of_an_unknown_attempt_is_ignored(self, harness: Harness) -> None:
        harness.executor.cancel(["no/such/-1/1"])
        assert harness.run(harness.workload()).finished.outcome is Outcome.SUCCESS

    def test_processes_that_left_the_group_are_killed_too(self, harness: Harness) -> None:
        if not self.local_processes:
            pytest.skip("attempts are not processes of this machine")
        workload = harness.shell("sleep 600 & echo near $!; setsid sleep 600 & echo far $!; wait")
        harness.submit(workload)
        near, far = _pid(harness.wait_line(workload, "near")), _pid(harness.wait_line(workload, "far"))
        harness.executor.cancel([workload.attempt_id])
        harness.wait_finished([workload])
        wait_dead(near)
        wait_dead(far)

    def test_processes_left_behind_by_a_successful_node_are_killed(self, harness: Harness) -> None:
        if not self.local_processes:
            pytest.skip("attempts are not processes of this machine")
        result = harness.run(harness.python("import subprocess\nreturn subprocess.Popen(['sleep', '600']).pid"))
        wait_dead(result.output)
        assert harness.run(harness.workload()).finished.outcome is Outcome.SUCCESS

    def test_after_the_lease_nothing_starts(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness(lease=lambda: time.monotonic() - 1)
        result = harness.run(harness.workload())
        assert result.finished.outcome is Outcome.LOST
        assert not any(isinstance(event, Started) for event in result.events)

    def test_stop_ends_everything_within_the_grace(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness(parallelism=2)
        deaf, polite, waiting = harness.python(DEAF), harness.python(SLEEP), harness.workload()
        harness.submit(deaf, polite, waiting)
        pid = _pid(harness.wait_line(deaf, "pid"))
        harness.wait_line(polite, "begun")
        begin = time.monotonic()
        harness.executor.stop(1)
        assert time.monotonic() - begin < 5
        for result in harness.wait_finished([deaf, polite, waiting], 0.1):
            assert result.finished.outcome is Outcome.LOST
            assert result.finished.error is not None
            assert result.finished.error.type == "Shutdown"
        if self.local_processes:
            wait_dead(pid)

    def test_stop_waits_for_attempts_that_end_in_time(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness()
        body = """
import signal, threading
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("begun")
asked.wait(20)
return "done"
"""
        workload = harness.python(body)
        harness.submit(workload)
        harness.wait_line(workload, "begun")
        harness.executor.stop(10)
        assert harness.wait_finished([workload], 0.1)[0].output == "done"

    def test_drain_gives_back_what_has_not_begun_and_lets_the_rest_run(
        self, make_harness: Callable[..., Harness], tmp_path: Path
    ) -> None:
        harness = make_harness(parallelism=1)
        drain = getattr(harness.executor, "drain", None)
        if drain is None:
            pytest.skip("this executor runs what it has taken")
        gate = tmp_path / "gate"
        body = f"import os, time\nprint('begun')\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nreturn 1"
        running, waiting, late = harness.python(body), harness.python("return 1"), harness.workload()
        harness.submit(running, waiting)
        harness.wait_line(running, "begun")
        drain()
        harness.submit(late)
        for result in harness.wait_finished([waiting, late], 5):
            assert result.finished.outcome is Outcome.RETURNED
            assert not any(isinstance(event, Started) for event in result.events)
        gate.touch()
        assert harness.wait_finished([running])[0].output == 1

"""Output size, log floods, memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from agentflow.workload import Outcome, Workload
from executors.conformance.harness import Harness, WithHarness

MIB = 2**20


class LimitsAndFloods(WithHarness):
    """Bounds that hold whatever user code does."""

    #: Size of the flood; the bound on its time grows with it.
    flood_mib = 100
    has_memory_limit = True

    def test_an_output_over_the_limit_fails_with_advice(self, harness: Harness) -> None:
        result = harness.run(harness.python(f"return 'x' * {100 * MIB}"))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert "16 MiB" in result.finished.error.message

    def test_an_output_just_within_the_limit_arrives_whole(self, harness: Harness) -> None:
        assert len(harness.run(harness.python(f"return 'x' * {16 * MIB - 2}")).output) == 16 * MIB - 2

    def test_a_flood_from_a_child_process_is_cut(self, harness: Harness) -> None:
        size = self.flood_mib * MIB
        self._check_flood(harness, harness.shell(f"{{ yes || true; }} | head -c {size}", limits={"log_max": MIB}), size)

    def test_a_flood_of_prints_is_cut(self, harness: Harness) -> None:
        count = self.flood_mib * MIB // 100
        workload = harness.python(f"for _ in range({count}): print('x' * 99)", limits={"log_max": MIB})
        self._check_flood(harness, workload, count * 100)

    def _check_flood(self, harness: Harness, workload: Workload, size: int) -> None:
        begin = time.monotonic()
        result = harness.run(workload, 60)
        assert time.monotonic() - begin < 5 + self.flood_mib * 0.05
        assert result.finished.outcome is Outcome.SUCCESS
        assert sum(chunk.raw_bytes for chunk in result.chunks) < MIB + 4096
        *lines, last = result.lines
        dropped = result.chunks[-1].truncated_bytes
        assert last[4] == f"truncated: {dropped} bytes dropped"
        assert sum(len(line[4]) + 1 for line in lines) + dropped == size

    def test_an_endless_line_is_split(self, harness: Harness) -> None:
        lines = harness.run(harness.python("import os\nos.write(1, b'y' * 300_000)\nprint('x' * 300_000)")).lines
        assert sum(len(line[4]) for line in lines) == 600_000
        assert max(len(line[4]) for line in lines) <= 65536

    def test_a_log_that_is_not_stored_holds_up_only_its_own_attempt(self, make_harness: Callable[..., Harness]) -> None:
        harness = make_harness()
        harness.acknowledge = False
        noisy = harness.python("for i in range(200_000): print('line', i, 'x' * 50)", limits={"timeout": 30})
        harness.submit(noisy)
        harness.wait_line(noisy, "line 100")
        begin = time.monotonic()
        others = [harness.workload() for _ in range(20)]
        harness.submit(*others)
        harness.wait_finished(others, 10)
        assert time.monotonic() - begin < 5
        assert len(harness.result(noisy).chunks) < 20
        harness.acknowledge = True
        for chunk in harness.result(noisy).chunks:
            chunk.stored()
        assert harness.wait_finished([noisy])[0].finished.outcome is Outcome.SUCCESS

    def test_memory_beyond_the_limit_is_out_of_memory(self, harness: Harness) -> None:
        if not self.has_memory_limit:
            return
        body = "data = []\nfor _ in range(40): data.append(bytearray(b'x') * (10 * 2**20))"
        error = harness.run(harness.python(body, limits={"memory": 100 * MIB})).finished.error
        assert error is not None
        assert error.type == "OutOfMemory"

    def test_memory_of_child_processes_counts(self, harness: Harness) -> None:
        if not self.has_memory_limit:
            return
        child = "import time; data = bytearray(b'x') * (60 * 2**20); time.sleep(20)"
        body = f"""
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", {child!r}]) for _ in range(3)]
for process in children: process.wait()
"""
        result = harness.run(harness.python(body, limits={"memory": 100 * MIB}))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert result.finished.error.type == "OutOfMemory"

    def test_an_attempt_within_its_memory_is_left_alone(self, harness: Harness) -> None:
        workload = harness.python(f"return len(bytearray({20 * MIB}))", limits={"memory": 200 * MIB})
        assert harness.run(workload).output == 20 * MIB

"""Executors of processes when their parts are killed: nothing lives on, nothing is lost from sight."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

pytest.register_assert_rewrite("executors.conformance")

from agentflow.workload import Outcome  # noqa: E402 - after the rewrite is registered
from executors.conformance.harness import Harness, wait_dead  # noqa: E402
from executors.local import LocalExecutor  # noqa: E402
from executors.subprocess import SubprocessExecutor  # noqa: E402

pytestmark = pytest.mark.chaos

FAMILY = """
import os, subprocess, time
near = subprocess.Popen(["sleep", "600"]).pid
far = subprocess.Popen(["sleep", "600"], start_new_session=True).pid
print("pids", os.getpid(), near, far)
time.sleep(600)
"""


@pytest.fixture(params=[LocalExecutor, SubprocessExecutor])
def harness(tmp_path, request):
    harness = Harness(request.param, tmp_path, parallelism=2)
    yield harness
    harness.executor.stop(0)


@pytest.fixture
def warm(tmp_path):
    harness = Harness(LocalExecutor, tmp_path, parallelism=2)
    yield harness
    harness.executor.stop(0)


def _kill_zygote(harness, killed=frozenset()):
    """Kill the zygote that forked the process which answers now; returns its pid."""
    for _ in range(100):
        result = harness.run(harness.python("import os\nreturn os.getppid()"))
        if result.finished.outcome is Outcome.SUCCESS and result.output not in killed:
            os.kill(result.output, signal.SIGKILL)
            return result.output
    return pytest.fail("no other zygote took over")


def _family(harness):
    workload = harness.python(FAMILY)
    harness.submit(workload)
    return workload, [int(word) for word in harness.wait_line(workload, "pids").split()[1:]]


def test_kill_9_of_a_runner_loses_its_attempt_and_kills_its_children(harness):
    workload, pids = _family(harness)
    os.kill(pids[0], signal.SIGKILL)
    assert harness.wait_finished([workload])[0].finished.outcome is Outcome.LOST
    for pid in pids:
        wait_dead(pid)
    assert harness.run(harness.workload()).finished.outcome is Outcome.SUCCESS


def test_kill_9_of_the_zygote_loses_what_runs_and_another_one_takes_over(harness):
    workload, pids = _family(harness)
    waiting = [harness.python("import time\ntime.sleep(0.01)\nreturn 1") for _ in range(20)]
    harness.submit(*waiting)
    psutil.Process(pids[0]).parent().kill()
    assert harness.wait_finished([workload])[0].finished.outcome is Outcome.LOST
    outcomes = {result.finished.outcome for result in harness.wait_finished(waiting)}
    assert outcomes <= {Outcome.SUCCESS, Outcome.LOST}
    assert harness.run(harness.workload()).finished.outcome is Outcome.SUCCESS
    wait_dead(pids[0])
    wait_dead(pids[1])
    with contextlib.suppress(ProcessLookupError):  # of a session of its own, it is out of sight
        os.kill(pids[2], signal.SIGKILL)


def test_a_zygote_killed_again_and_again_does_not_end_the_executor(harness):
    killed = set()
    for _ in range(3):
        killed.add(_kill_zygote(harness, killed))
    assert _kill_zygote(harness, killed) not in killed


SCHEDULER = """
import sys, time
from pathlib import Path
from executors.conformance.harness import Harness
from executors.local import LocalExecutor
from executors.subprocess import SubprocessExecutor
harness = Harness(globals()[sys.argv[3]], Path(sys.argv[1]), parallelism=2)
workload = harness.python(sys.argv[2])
harness.submit(workload)
print(harness.wait_line(workload, "pids"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("executor", [LocalExecutor, SubprocessExecutor])
def test_when_the_scheduler_is_killed_everything_below_it_ends(tmp_path, executor):
    with subprocess.Popen(
        [sys.executable, "-c", SCHEDULER, str(tmp_path), FAMILY, executor.__name__], stdout=subprocess.PIPE, text=True
    ) as scheduler:
        assert scheduler.stdout is not None
        pids = [int(word) for word in scheduler.stdout.readline().split()[1:]]
        below = [process.pid for process in psutil.Process(scheduler.pid).children(recursive=True)]
        assert set(pids) <= set(below)
        scheduler.kill()
    for pid in below:
        wait_dead(pid, 5)


@pytest.mark.parametrize("executor", [LocalExecutor, SubprocessExecutor])
def test_stop_leaves_no_process_and_no_file(tmp_path, executor):
    others = set(psutil.Process().children(recursive=True))  # such as the Postgres of other tests
    harness = Harness(executor, tmp_path, parallelism=2)
    _family(harness)
    below = [process.pid for process in set(psutil.Process().children(recursive=True)) - others]
    harness.executor.stop(0)
    for pid in below:
        wait_dead(pid, 2)
    assert not harness.context.work_dir.exists()


def test_a_cancel_before_the_process_is_there_gives_its_slot_back(harness):
    workloads = [harness.workload() for _ in range(2)]
    harness.submit(*workloads)
    pause = threading.Event()
    while sum(len(handle.items) for handle in harness.executor._engine._pool) < 2:
        pause.wait(0.001)  # handed over; the zygote needs much longer until their processes are there
    harness.executor.cancel([workload.attempt_id for workload in workloads])
    outcomes = [result.finished.outcome for result in harness.wait_finished(workloads)]
    assert outcomes == [Outcome.CANCELLED] * 2
    assert harness.run(harness.workload("noop", {"output": 1}), 10).output == 1
    assert harness.executor.slots_free >= 2


def test_work_queued_behind_a_long_attempt_is_given_to_another_process(warm):
    first = [warm.workload() for _ in range(200)]
    warm.submit(*first)
    warm.wait_finished(first)
    assert warm.executor.slots_free > 2  # short attempts: it looks ahead
    long, *short = [warm.python("import time\ntime.sleep(20)"), *(warm.python("return 1") for _ in range(30))]
    warm.submit(long, *short)
    begin = time.monotonic()
    warm.wait_finished(short, 10)
    assert time.monotonic() - begin < 5
    warm.executor.cancel([long.attempt_id])
    warm.wait_finished([long])


def test_a_process_is_replaced_after_200_attempts(warm):
    served = Counter([first := warm.run(warm.python("import os\nreturn os.getpid()")).output])
    for _ in range(50):  # how the work is divided depends on the machine
        workloads = [warm.python("import os\nreturn os.getpid()") for _ in range(100)]
        warm.submit(*workloads)
        served.update(result.output for result in warm.wait_finished(workloads))
        if served[first] == 200:
            break
    assert served[first] == 200
    assert max(served.values()) == 200
    wait_dead(first)


def test_a_module_of_a_bundle_is_imported_once_per_process(warm):
    bundle = warm.context.bundles_dir / "hash1"
    bundle.mkdir(parents=True)
    (bundle / "heavy.py").write_text("loads = []\ndef count():\n    loads.append(1)\n    return len(loads)\n")
    workload = [warm.workload("python", {"function": "heavy:count"}, bundle="hash1") for _ in range(5)]
    assert [warm.run(one).output for one in workload] == [1, 2, 3, 4, 5]


def test_workspaces_and_bundles_do_not_share_a_process(warm):
    body = "import os\nreturn os.getpid()"
    (warm.context.bundles_dir / "b").mkdir(parents=True)
    pids = {
        warm.run(warm.python(body, **fields)).output
        for fields in ({}, {"workspace": "other"}, {"bundle": "b"}, {"workspace": "other", "bundle": "b"})
    }
    assert len(pids) == 4


def test_inline_code_starts_with_fresh_names(warm):
    body = "global seen\nfirst = 'seen' not in globals()\nseen = True\nreturn first"
    assert [warm.run(warm.python(body)).output for _ in range(3)] == [True, True, True]


def test_under_kills_and_cancels_every_workload_ends_exactly_once(harness):
    dice = random.Random(7)
    bodies = ["return 1", "import time\ntime.sleep(0.01)\nreturn 1", "import os\nos._exit(2)", "print('x' * 200)"]
    workloads = [harness.python(dice.choice(bodies), limits={"timeout": 5}) for _ in range(600)]
    workloads += [harness.python("import time\ntime.sleep(60)", limits={"timeout": 0.05}) for _ in range(10)]
    dice.shuffle(workloads)
    harness.submit(*workloads)
    for index, workload in enumerate(workloads):
        if index % 20 == 0:
            harness.wait_finished([workload])
            harness.executor.cancel([one.attempt_id for one in dice.sample(workloads, 5)])
            runners = psutil.Process().children(recursive=True)[1:]  # the first is the zygote
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                dice.choice(runners).kill()
    outcomes = {result.finished.outcome for result in harness.wait_finished(workloads)}
    assert outcomes <= {Outcome.SUCCESS, Outcome.FAILED, Outcome.CANCELLED, Outcome.LOST}
    assert harness.executor.slots_free >= 2

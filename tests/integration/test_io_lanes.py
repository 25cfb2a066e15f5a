"""I/O lanes: many attempts in a process, as if each had one of its own. A node type of the tests' own stands in."""

from __future__ import annotations

import base64
import os
import time
from contextlib import ExitStack
from urllib.parse import quote

import psutil
import pytest

pytest.register_assert_rewrite("executors.conformance")

from agentflow.nodes import registry  # noqa: E402 - after the rewrite is registered
from agentflow.workload import Outcome, Started  # noqa: E402
from executors.conformance.harness import GRACE, wait_dead  # noqa: E402
from executors.local import LocalExecutor  # noqa: E402
from executors.processes import lanes  # noqa: E402
from executors.processes.watchdog import BLOCKED_MAX  # noqa: E402
from executors.subprocess import SubprocessExecutor  # noqa: E402
from tests.lane_kit import Lanes, install_probe  # noqa: E402

MIB = 2**20
SECRET = "s3cr3t/with+signs&more"


@pytest.fixture(scope="module")
def probe_package(tmp_path_factory):
    """The type, installed for the processes that executors start, and trusted by the executors of these tests."""
    folder = tmp_path_factory.mktemp("site")
    install_probe(folder)
    real = registry.shares_process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setattr(registry, "shares_process", lambda name, *, memory: name == "probe" or real(name, memory=memory))
        yield folder


@pytest.fixture
def make_lanes(probe_package, tmp_path):
    with ExitStack() as stack:
        numbers = iter(range(9))

        def make(**context):
            harness = Lanes(LocalExecutor, tmp_path / f"executor-{next(numbers)}", parallelism=2, **context)
            stack.callback(harness.executor.stop, 0)
            return harness

        yield make


@pytest.fixture(scope="module")
def lanes_shared(probe_package, tmp_path_factory):
    harness = Lanes(LocalExecutor, tmp_path_factory.mktemp("lanes"), parallelism=2)
    yield harness
    harness.executor.stop(0)


SLEEP = "print('begun')\nawait asyncio.sleep(600)"


def test_attempts_share_a_process_and_take_no_slots_of_processes(make_lanes):
    harness = make_lanes()
    workloads = [harness.probe("await asyncio.sleep(0.5)\nreturn os.getpid()") for _ in range(20)]
    harness.submit(*workloads)
    for workload in workloads:
        harness.wait_started(workload)
    assert harness.executor.slots_free == 2
    assert harness.executor.io_slots_free == 1024 - 20
    assert len({result.output for result in harness.wait_finished(workloads)}) == 1
    assert harness.executor.io_slots_free == 1024


def test_a_second_lane_is_opened_for_many_and_never_more_than_the_limit(make_lanes):
    harness = make_lanes(options={"io_concurrency": 300})
    workloads = [harness.probe("await asyncio.sleep(0.5)\nreturn os.getpid()") for _ in range(300)]
    harness.submit(*workloads)
    found = [result.output for result in harness.wait_finished(workloads)]
    assert len(set(found)) == 2
    assert max(found.count(pid) for pid in set(found)) <= lanes.LANE_MAX


@pytest.mark.parametrize(("node_type", "fields"), [("http", {"limits": {"memory": 200 * MIB}}), ("noop", {})])
def test_a_limit_of_memory_or_another_type_means_a_process_of_its_own(lanes_shared, node_type, fields):
    before = lanes_shared.executor._submitted_to_lanes
    lanes_shared.run(lanes_shared.workload(node_type, {"url": "http://127.0.0.1:1/"} if fields else {}, **fields))
    assert lanes_shared.executor._submitted_to_lanes == before


def test_workspaces_do_not_share_a_lane(lanes_shared):
    found = {}
    for workspace in ("one", "two"):
        found[workspace] = lanes_shared.run(lanes_shared.probe("return os.getpid()", workspace=workspace)).output
    assert found["one"] != found["two"]


def test_without_lanes_a_waiting_node_has_a_process(make_lanes):
    harness = make_lanes(options={"io_concurrency": 0})
    assert harness.executor.io_slots_free is None
    result = harness.run(harness.probe("print('alone')\nreturn 1"))
    assert (result.output, result.text) == (1, "alone")


def test_the_subprocess_executor_has_no_lanes(probe_package, tmp_path):
    harness = Lanes(SubprocessExecutor, tmp_path / "executor", options={"environment": "PYTHONPATH"})
    try:
        assert harness.executor.io_slots_free is None
        assert harness.run(harness.probe("return await asyncio.sleep(0, 7)")).output == 7
    finally:
        harness.executor.stop(0)


def test_everything_printed_and_logged_is_in_the_log_of_its_own_attempt(lanes_shared):
    body = """
import logging
for number in range(30):
    print("line", mine, number)
    context.log(f"said {mine}", level="warning")
    logging.getLogger("lib").error("logged %s", mine)
    sys.stderr.write(f"err {mine}")
    await asyncio.sleep(0)
    sys.stderr.write(" end\\n")
async def child(): print("child", mine)
await asyncio.create_task(child())
await asyncio.to_thread(print, "thread", mine)
await asyncio.sleep(0.01)
"""
    workloads = [lanes_shared.probe(body, args={"mine": f"<{number}>"}) for number in range(20)]
    lanes_shared.submit(*workloads)
    for number, result in enumerate(lanes_shared.wait_finished(workloads)):
        mine = f"<{number}>"
        texts = [row[4] for row in result.lines]
        assert len(texts) == 4 * 30 + 2
        assert all(mine in text for text in texts)
        assert [text for text in texts if text.startswith("line")] == [f"line {mine} {n}" for n in range(30)]
        assert {row[2:4] for row in result.lines} == {
            ("stdout", "info"), ("system", "warning"), ("stderr", "error"), ("stderr", "info"),
        }  # fmt: skip
        assert f"err {mine} end" in texts


def test_a_line_appears_while_the_node_still_runs(lanes_shared, tmp_path):
    flag = tmp_path / "go"
    body = "print('early')\nwhile not os.path.exists(flag): await asyncio.sleep(0.01)"
    workload = lanes_shared.probe(body, args={"flag": str(flag)})
    lanes_shared.submit(workload)
    lanes_shared.wait_line(workload, "early")
    flag.touch()
    assert lanes_shared.wait_finished([workload])[0].finished.outcome is Outcome.SUCCESS


def test_a_flood_is_cut_with_an_honest_last_line(lanes_shared):
    body = "for _ in range(2_000):\n    for _ in range(50): print('x' * 99)\n    await asyncio.sleep(0)"
    result = lanes_shared.run(lanes_shared.probe(body, limits={"log_max": MIB}), 60)
    *lines, last = result.lines
    assert sum(chunk.raw_bytes for chunk in result.chunks) < MIB + 4096
    assert last[4] == f"truncated: {result.chunks[-1].truncated_bytes} bytes dropped"
    assert sum(len(line[4]) + 1 for line in lines) + result.chunks[-1].truncated_bytes == 100_000 * 100


def test_a_log_that_is_not_stored_holds_up_only_its_own_attempt(make_lanes):
    harness = make_lanes()
    harness.acknowledge = False
    body = "for i in range(20_000):\n    print('line', i, os.urandom(40).hex())\n    if i % 50 == 0: await asyncio.sleep(0)"
    noisy = harness.probe(body)
    harness.submit(noisy)
    harness.wait_line(noisy, "line 100 ")
    others = [harness.probe("return 1") for _ in range(20)]
    harness.submit(*others)
    harness.wait_finished(others, 10)
    assert len(harness.result(noisy).chunks) <= 8
    harness.acknowledge = True
    for chunk in harness.result(noisy).chunks:
        chunk.stored()
    assert len(harness.wait_finished([noisy])[0].lines) == 20_000


def test_cancel_lets_the_node_clean_up_and_leaves_its_neighbours_alone(lanes_shared):
    body = "try:\n    print('begun')\n    await asyncio.sleep(600)\nfinally:\n    print('cleaned up')"
    workload, neighbour = lanes_shared.probe(body), lanes_shared.probe(SLEEP)
    lanes_shared.submit(workload, neighbour)
    lanes_shared.wait_line(workload, "begun")
    lanes_shared.executor.cancel([workload.attempt_id])
    result = lanes_shared.wait_finished([workload], GRACE + 5)[0]
    assert result.finished.outcome is Outcome.CANCELLED
    assert "cleaned up" in result.text
    assert len(lanes_shared.result(neighbour).events) > 0
    lanes_shared.executor.cancel([neighbour.attempt_id])
    assert lanes_shared.wait_finished([neighbour])[0].finished.outcome is Outcome.CANCELLED


def test_cancel_at_the_moment_of_the_start_ends_it(lanes_shared):
    workloads = [lanes_shared.probe(SLEEP) for _ in range(50)]
    lanes_shared.submit(*workloads)
    lanes_shared.executor.cancel([workload.attempt_id for workload in workloads])
    results = lanes_shared.wait_finished(workloads)
    assert {result.finished.outcome for result in results} == {Outcome.CANCELLED}


def test_one_that_does_not_stop_takes_its_lane_along_and_the_others_are_lost(make_lanes):
    harness = make_lanes()
    deaf = harness.probe(
        "while True:\n    try:\n        print('pid', os.getpid())\n        await asyncio.sleep(600)\n"
        "    except asyncio.CancelledError: pass",
        limits={"timeout": 0.3},
    )
    neighbour = harness.probe(SLEEP)
    harness.submit(deaf, neighbour)
    pid = int(harness.wait_line(deaf, "pid").rsplit(maxsplit=1)[-1])
    results = harness.wait_finished([deaf, neighbour], GRACE + 5)
    assert [result.finished.error.type for result in results] == ["Timeout", "Lost"]
    assert results[1].finished.outcome is Outcome.LOST
    wait_dead(pid)
    assert harness.run(harness.probe("return 1")).output == 1


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(7)", "os.abort()"])
def test_a_lane_that_dies_loses_all_its_attempts_and_another_one_takes_over(make_lanes, end):
    harness = make_lanes()
    others = [harness.probe("print('begun')\nawait asyncio.sleep(600)") for _ in range(10)]
    harness.submit(*others)
    for other in others:
        harness.wait_line(other, "begun")
    crash = harness.probe(f"print('last words')\nawait asyncio.sleep(0.1)\n{end}")
    harness.submit(crash)
    for result in harness.wait_finished([crash, *others]):
        assert result.finished.outcome is Outcome.LOST
        assert result.finished.started_at is not None
        assert result.finished.error.exit_code is None
    assert "last words" in harness.result(crash).text
    assert harness.executor.io_slots_free == 1024
    assert harness.run(harness.probe("return 2")).output == 2


def test_a_node_run_that_died_with_two_lanes_gets_a_process_of_its_own(make_lanes):
    harness = make_lanes()

    def attempt(number, body):
        return harness.probe(body, attempt_id=f"run/1/-1/{number}", attempt=number)

    for number in (1, 2):
        assert harness.run(attempt(number, "os._exit(1)")).finished.outcome is Outcome.LOST
        assert harness.executor._submitted_to_lanes == number
    # An end with an exit code is told apart from others' only where nobody else is
    assert harness.run(attempt(3, "os._exit(1)")).finished.error.exit_code == 1
    assert harness.executor._submitted_to_lanes == 2


def test_attempts_die_with_the_parent_of_the_processes_and_others_take_over(make_lanes):
    harness = make_lanes()
    workload = harness.probe("print('pid', os.getpid())\nawait asyncio.sleep(600)")
    harness.submit(workload)
    pid = int(harness.wait_line(workload, "pid").rsplit(maxsplit=1)[-1])
    psutil.Process(pid).parent().kill()
    assert harness.wait_finished([workload])[0].finished.outcome is Outcome.LOST
    wait_dead(pid)
    assert harness.run(harness.probe("return 3")).output == 3


@pytest.mark.parametrize("block", ["while True: pass", "time.sleep(600)"], ids=["computing", "a call that blocks"])
def test_a_step_that_blocks_the_loop_fails_alone(make_lanes, block):
    harness = make_lanes()
    neighbour = harness.probe("print('begun')\nfor _ in range(60): await asyncio.sleep(0.1)\nreturn os.getpid()")
    harness.submit(neighbour)
    harness.wait_line(neighbour, "begun")
    begin = time.monotonic()
    blocker = harness.probe(f"await asyncio.sleep(0)\n{block}")
    harness.submit(blocker)
    error = harness.wait_finished([blocker])[0].finished.error
    assert error.type == "LoopBlocked"
    assert "process of its own" in error.message
    assert time.monotonic() - begin < BLOCKED_MAX + 5
    assert isinstance(harness.wait_finished([neighbour])[0].output, int)


def test_a_template_that_computes_for_ever_fails_its_own_node(make_lanes):
    harness = make_lanes()
    loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    error = harness.run(harness.workload("http", {"url": "http://127.0.0.1/" + loops})).finished.error
    assert error.type == "LoopBlocked"
    assert harness.run(harness.probe("return 1")).output == 1


#: C code in which no signal handler of Python runs, and no other thread.
ENDLESS = "await asyncio.sleep(0.2)\nsum(range(10**12))"


def test_what_c_code_blocks_is_ended_by_its_timeout(make_lanes):
    harness = make_lanes()
    begin = time.monotonic()
    result = harness.run(harness.probe(ENDLESS, limits={"timeout": 0.5}))
    assert result.finished.error.type == "Timeout"
    assert time.monotonic() - begin < 0.5 + GRACE + 5


def test_what_c_code_blocks_without_a_timeout_ends_the_lane(make_lanes):
    harness = make_lanes()
    error = harness.run(harness.probe(ENDLESS)).finished.error
    assert error.type == "Lost"
    assert "could not be ended" in error.message
    assert harness.run(harness.probe("return 1")).output == 1


def test_memory_beyond_what_a_lane_may_use_fails_the_attempt_that_asks_for_it(lanes_shared):
    error = lanes_shared.run(lanes_shared.probe("return len(bytearray(2 ** 31))")).finished.error
    assert error.type == "OutOfMemory"
    assert lanes_shared.run(lanes_shared.probe("return 1")).output == 1


def test_attempts_that_need_much_memory_take_turns(lanes_shared):
    body = f"await context.make_room()\ndata = bytearray({120 * MIB})\nawait asyncio.sleep(0.05)\nreturn len(data)"
    workloads = [lanes_shared.probe(body) for _ in range(12)]
    lanes_shared.submit(*workloads)
    assert [result.output for result in lanes_shared.wait_finished(workloads)] == [120 * MIB] * 12


def test_a_large_output_arrives_whole_and_one_over_the_limit_fails(lanes_shared):
    fits, large = lanes_shared.probe(f"return 'x' * {16 * MIB - 2}"), lanes_shared.probe(f"return 'x' * {17 * MIB}")
    lanes_shared.submit(fits, large)
    first, second = lanes_shared.wait_finished([fits, large])
    assert len(first.output) == 16 * MIB - 2
    assert second.finished.error.type == "OutputInvalid"
    assert "16 MiB" in second.finished.error.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("return {'a': float('nan')}", "OutputInvalid"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("sys.exit(3)", "ExitCode"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("async with asyncio.TaskGroup() as group: group.create_task(asyncio.wait_for(asyncio.sleep(9), 0.01))",
         "ExceptionGroup"),
    ],
)  # fmt: skip
def test_whatever_a_node_raises_ends_its_own_attempt_only(lanes_shared, body, kind):
    neighbour = lanes_shared.probe("await asyncio.sleep(0.2)\nreturn 1")
    failing = lanes_shared.probe(body)
    lanes_shared.submit(neighbour, failing)
    result, other = lanes_shared.wait_finished([failing, neighbour])
    assert result.finished.outcome is Outcome.FAILED
    assert result.finished.error.type == kind
    assert other.output == 1


def test_secrets_are_masked_in_the_log_and_error_of_the_attempt_that_has_them(lanes_shared):
    body = """
import urllib.parse, base64
value = "{}"
print("plain", value); print("url", urllib.parse.quote(value, safe=""))
context.log(base64.b64encode(value.encode()).decode())
sys.stdout.write(value[:5]); await asyncio.sleep(0.3); sys.stdout.write(value[5:])
raise RuntimeError("cannot log in with " + value)
""".replace("{}", SECRET)
    result = lanes_shared.run(lanes_shared.probe(body, secrets={"KEY": SECRET}))
    seen = result.text + result.finished.error.message
    forms = [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()]
    assert [form for form in forms if form in seen] == []
    assert result.finished.error.message == "cannot log in with ***"


def test_an_attempt_whose_lease_ends_while_its_lane_starts_is_not_started(make_lanes):
    until = [time.monotonic() + 3600]
    harness = make_lanes(lease=lambda: until[0])
    first = harness.probe(SLEEP)
    harness.submit(first)
    harness.wait_line(first, "begun")
    (handle,) = harness.executor._engine._lanes
    lane = psutil.Process(handle.pid)
    lane.suspend()
    until[0] = time.monotonic() + 0.05
    late = harness.probe("return 1")
    harness.submit(late)
    while time.monotonic() < until[0]:
        os.sched_yield()
    lane.resume()
    result = harness.wait_finished([late])[0]
    assert result.finished.outcome is Outcome.LOST
    assert not any(isinstance(event, Started) for event in result.events)


def test_an_idle_lane_ends_when_another_workspace_needs_its_place(make_lanes):
    harness = make_lanes(options={"io_concurrency": 10})
    first = harness.run(harness.probe("return os.getpid()", workspace="one")).output
    second = harness.run(harness.probe("return os.getpid()", workspace="two")).output
    assert first != second
    wait_dead(first)

"""The evaluator with its real child process: limits, crashes, many requests, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentflow.templates.evaluator_process import ChildGone, EvaluatorProcess
from agentflow.templates.framing import encode_frame
from scheduler import evaluator as evaluator_module
from scheduler.evaluator import EvalRequest, EvalResult, Evaluator, EvaluatorUnavailable

#: Runs for minutes, in small steps that no size check sees.
SLOW = "{{ range(99999) | map('string') | map('replace', '1', 'x' * 9999) | map('wordcount') | sum }}"
#: Runs for many seconds inside one operation of C, where no Python code gets a turn.
SLOW_IN_C = "{{ [[[0] * 2000] * 2000] * 2000 == [[[0] * 2000] * 2000] * 2000 }}"
#: Asks for gigabytes, in pieces that are each within the limits.
HUGE = "{{ range(999) | map('string') | map('center', 9999999) | list | length }}"

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and PDEATHSIG are Linux's")


@pytest.fixture
def evaluator():
    evaluator = Evaluator()
    evaluator.start()
    yield evaluator
    evaluator.stop()


def ask(expression: object, **params: object) -> EvalRequest:
    return EvalRequest(expression, {"params": params})


def outcomes(results: list[EvalResult]) -> list[object]:
    return [result.error.type if result.error else result.value for result in results]


def test_values_keep_their_type_and_order(evaluator):
    requests = [ask("{{ params.x }}", x=value) for value in (1, "a", None, True, [1, {"b": 2.5}], "[1]")]
    assert outcomes(evaluator.evaluate_many(requests)) == [1, "a", None, True, [1, {"b": 2.5}], "[1]"]


def test_literals_need_no_child():
    assert outcomes(Evaluator().evaluate_many([ask(True), ask(None), ask([1]), ask("text")])) == [
        True,
        None,
        [1],
        "text",
    ]


def test_no_requests_give_no_results(evaluator):
    assert evaluator.evaluate_many([]) == []


def test_an_error_belongs_to_its_request_alone_and_names_what_is_missing(evaluator):
    results = evaluator.evaluate_many([ask("{{ 1 }}"), ask("{{ params.nope }}", city=1), ask("{{ 2 }}")])
    assert outcomes(results) == [1, "TemplateError", 2]
    assert "param `nope` does not exist; there is: city" in results[1].error.message


def test_thousands_of_requests_share_one_child(evaluator):
    evaluator.evaluate_many([ask("{{ 1 }}")])
    pid = evaluator.pid
    requests = [ask("{{ params.n * 2 }}", n=number) for number in range(5000)]
    assert outcomes(evaluator.evaluate_many(requests)) == [number * 2 for number in range(5000)]
    assert evaluator.pid == pid


def test_large_contexts_do_not_block_the_pipes(evaluator):
    requests = [ask("{{ params.text }}", text=str(number) * 500_000) for number in range(10)] * 4
    assert [len(value) for value in outcomes(evaluator.evaluate_many(requests))] == [500_000] * 40


@pytest.mark.parametrize("bomb", [SLOW, SLOW_IN_C])
def test_a_timeout_costs_its_own_result_only(evaluator, bomb):
    evaluator.evaluate_many([ask("{{ 0 }}")])
    pid = evaluator.pid
    began = time.monotonic()
    results = evaluator.evaluate_many([ask("{{ 1 }}"), ask(bomb), ask("{{ 2 }}"), ask("{{ 3 }}")])
    assert outcomes(results) == [1, "Timeout", 2, 3]
    assert "longer than 1 s" in results[1].error.message
    assert time.monotonic() - began < 15
    assert evaluator.pid != pid


@linux_only
def test_a_memory_breach_costs_its_own_result_and_the_process(evaluator):
    evaluator.evaluate_many([ask("{{ 0 }}")])
    pid = evaluator.pid
    results = evaluator.evaluate_many([ask("{{ 1 }}"), ask(HUGE), ask("{{ 2 }}"), ask(HUGE)])
    assert outcomes(results) == [1, "OutOfMemory", 2, "OutOfMemory"]
    assert evaluator.pid != pid
    assert outcomes(evaluator.evaluate_many([ask("{{ 3 }}")])) == [3]


@linux_only
def test_a_context_too_big_for_the_memory_costs_its_own_result_only(evaluator):
    rows = [{"a": 1}] * 2_000_000
    results = evaluator.evaluate_many([ask("{{ 1 }}"), ask("{{ params.rows | length }}", rows=rows), ask("{{ 2 }}")])
    assert outcomes(results)[::2] == [1, 2]
    assert results[1].error.type in {"OutOfMemory", "Timeout"}  # whichever limit a slow machine meets first


def test_too_much_data_is_refused_before_it_is_sent(evaluator):
    results = evaluator.evaluate_many([ask("{{ params.x }}", x="a" * 40_000_000), ask("{{ 1 }}")])
    assert outcomes(results) == ["TemplateError", 1]
    assert "too much data" in results[0].error.message


def test_a_context_that_is_not_json_is_an_error_of_its_request(evaluator):
    results = evaluator.evaluate_many([ask("{{ params.x }}", x=object()), ask("{{ params.x }}", x=1)])
    assert outcomes(results) == ["TypeError", 1]


def test_what_the_text_does_not_name_is_not_sent(evaluator):
    request = EvalRequest("{{ params.x }}", {"params": {"x": 1}, "nodes": object()})
    assert outcomes(evaluator.evaluate_many([request])) == [1]


def test_a_child_killed_from_outside_costs_nothing(evaluator):
    evaluator.evaluate_many([ask("{{ 1 }}")])
    os.kill(evaluator.pid, signal.SIGKILL)
    assert outcomes(evaluator.evaluate_many([ask("{{ 1 }}"), ask("{{ 2 }}")])) == [1, 2]


def test_a_request_that_kills_its_child_twice_is_a_crash(evaluator, monkeypatch):
    class Doomed(EvaluatorProcess):
        def exchange(self, frames, expected, silence):
            if not frames:
                yield from super().exchange(frames, expected, silence)
            for position, frame in enumerate(frames):
                if b"boom" in frame:
                    self._process.send_signal(signal.SIGSEGV)
                    self._process.wait(10)
                yield from super().exchange(frames[position : position + 1], 1, silence)

    monkeypatch.setattr(evaluator_module, "EvaluatorProcess", Doomed)
    evaluator.stop()
    results = evaluator.evaluate_many([ask("{{ 1 }}"), ask("{{ 'boom' }}"), ask("{{ 2 }}")])
    assert outcomes(results) == [1, "Crash", 2]
    assert f"exit code {-signal.SIGSEGV}" in results[1].error.message


def test_the_budget_ends_a_batch_full_of_bombs(evaluator):
    evaluator.evaluate_many([ask("{{ 0 }}")])
    results = evaluator.evaluate_many([ask("{{ 1 }}"), *[ask(SLOW)] * 50], budget=0.5)
    assert outcomes(results)[:2] == [1, "Timeout"]
    assert [result.done for result in results] == [True, True] + [False] * 49
    assert outcomes(evaluator.evaluate_many([ask("{{ 2 }}")])) == [2]


def test_a_child_that_cannot_start_is_no_fault_of_the_requests(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EvaluatorUnavailable, match="did not start"):
        Evaluator().evaluate_many([ask("{{ 1 }}")])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EvaluatorUnavailable, match="cannot be started"):
        Evaluator().evaluate_many([ask("{{ 1 }}")])


def test_stop_ends_the_child_and_a_later_request_starts_one(evaluator):
    evaluator.evaluate_many([ask("{{ 1 }}")])
    pid = evaluator.pid
    evaluator.stop()
    assert evaluator.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert outcomes(evaluator.evaluate_many([ask("{{ 2 }}")])) == [2]


def test_the_child_ends_with_its_stdin():
    child = EvaluatorProcess(seconds=1, memory=256 * 2**20)
    child.wait_ready(20)
    child._requests.close()
    assert child._process.wait(10) == 0
    child.kill()


def test_a_busy_child_without_a_parent_is_stopped_by_its_own_clock():
    child = EvaluatorProcess(seconds=0.2, memory=256 * 2**20)
    child.wait_ready(20)
    os.set_blocking(child._requests.fileno(), True)
    os.write(child._requests.fileno(), encode_frame({"expression": SLOW, "context": {}, "files": {}}))
    assert child._process.wait(20) == -signal.SIGPROF
    child.kill()


@linux_only
def test_the_child_dies_with_its_parent():
    code = (
        "import os, signal\n"
        "from agentflow.templates.evaluator_process import EvaluatorProcess\n"
        "child = EvaluatorProcess(seconds=60, memory=2**28)\n"
        "child.wait_ready(20)\n"
        "os.dup2(os.open('/dev/null', os.O_RDWR), 0)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@linux_only
def test_the_child_sees_an_allow_list_of_the_environment_and_its_own_session():
    environment = {**os.environ, "AGENTFLOW_SECRET_KEY": "hunter2", "DATABASE_URL": "x", "LANG": "C.UTF-8"}
    child = EvaluatorProcess(seconds=1, memory=256 * 2**20, environment=environment)
    child.wait_ready(20)
    seen = Path(f"/proc/{child.pid}/environ").read_text()
    assert "LANG=C.UTF-8" in seen
    assert "hunter2" not in seen
    assert "DATABASE_URL" not in seen
    assert os.getsid(child.pid) == child.pid
    assert "Max address space         268435456" in Path(f"/proc/{child.pid}/limits").read_text()
    child.stop()


def test_a_module_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    child = EvaluatorProcess(seconds=1, memory=256 * 2**20)
    child.wait_ready(20)
    child.stop()


def test_a_child_that_leaves_before_it_is_ready_tells_its_exit_code(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    child = EvaluatorProcess(seconds=1, memory=256 * 2**20)
    with pytest.raises(ChildGone) as caught:
        child.wait_ready(20)
    assert caught.value.code == 1

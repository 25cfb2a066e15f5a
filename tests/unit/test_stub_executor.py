from __future__ import annotations

import pytest

from agentflow.errors import ExecutorUnknown
from agentflow.workload import Finished, LogChunk, Outcome, Started, Workload
from executors import registry
from executors.base import Executor, ExecutorContext
from executors.stub import StubExecutor, fail, lose, refuse, succeed


@pytest.fixture
def context(tmp_path):
    return ExecutorContext(parallelism=2, bundles_dir=tmp_path, work_dir=tmp_path)


@pytest.fixture
def events():
    return []


@pytest.fixture
def stub(context, events):
    stub = StubExecutor(context)
    stub.start(events.append)
    return stub


def _workload(node, attempt=1, config=None):
    return Workload(
        attempt_id=f"r/{node}/-1/{attempt}",
        token="t",
        run_id="r",
        workspace="w",
        workflow="f",
        version=1,
        node=node,
        attempt=attempt,
        type="noop",
        config=config or {},
    )


def _ends(events):
    return [event for event in events if isinstance(event, Finished)]


def test_without_a_script_a_node_succeeds_with_its_configured_output(stub, events):
    stub.submit([_workload("a", config={"output": {"x": 1}}), _workload("b")])
    assert [type(event) for event in events] == [Started, Finished, Started, Finished]
    assert [end.output for end in _ends(events)] == ['{"x": 1}', "null"]


def test_a_script_gives_each_attempt_its_end_and_the_last_one_stays(stub, events):
    stub.script("a", fail("boom"), lose(), succeed(3))
    stub.submit([_workload("a", attempt) for attempt in range(1, 5)])
    outcomes = [Outcome.FAILED, Outcome.LOST, Outcome.SUCCESS, Outcome.SUCCESS]
    assert [end.outcome for end in _ends(events)] == outcomes


def test_a_held_node_runs_until_it_is_released(stub, events):
    stub.hold("a")
    stub.submit([_workload("a")])
    assert stub.slots_free == 1
    assert _ends(events) == []
    stub.release("a", fail("late"))
    assert _ends(events)[0].outcome is Outcome.FAILED
    assert stub.slots_free == 2


def test_cancel_and_stop_end_what_runs(stub, events):
    stub.hold("a", "b")
    stub.submit([_workload("a"), _workload("b")])
    stub.cancel(["r/a/-1/1", "unknown"])
    stub.stop(0)
    assert [end.outcome for end in _ends(events)] == [Outcome.CANCELLED, Outcome.LOST]


def test_a_refused_attempt_never_starts(stub, events):
    stub.script("a", refuse())
    stub.submit([_workload("a")])
    assert [type(event) for event in events] == [Finished]
    assert events[0].started_at is None


def test_scripted_log_lines_are_a_chunk(stub, events):
    stub.script("a", succeed(log=["one", "two"]))
    stub.submit([_workload("a")])
    chunk = next(event for event in events if isinstance(event, LogChunk))
    assert (chunk.first_seq, chunk.lines) == (1, 2)


@pytest.mark.parametrize("name", ["local", "stub"])
def test_executors_are_found_by_name(name, context):
    assert isinstance(registry.load(name, context), Executor)
    assert name in registry.names()


def test_an_unknown_executor_is_an_error_that_lists_the_installed_ones(context):
    with pytest.raises(ExecutorUnknown) as raised:
        registry.load("celery", context)
    assert "local" in (raised.value.hint or "")

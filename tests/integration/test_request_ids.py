"""The id of a request goes with the run it made to every attempt of it, and of its sub-runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentflow import correlation
from agentflow.nodes.base import NodeContext
from agentflow.runner import run_attempt

REQUEST = "request-0123"


def traces(kit) -> set[tuple[str, str | None]]:
    return {(work.workflow, work.trace.get(correlation.TRACE)) for work in kit.stub.submitted}


def test_attempts_of_a_run_and_of_its_sub_runs_carry_it(kit) -> None:
    kit.apply({"b": {}}, "inner")
    kit.apply({"a": {}, "sub": {"type": "workflow", "config": {"name": "inner"}}})
    with correlation.bound(REQUEST):
        run = kit.create()
    kit.settle()
    assert kit.show(run)["request_id"] == REQUEST
    assert traces(kit) == {("flow", REQUEST), ("inner", REQUEST)}


def test_the_scheduler_s_log_tells_it_with_each_attempt(kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.apply({"a": {}})
    with correlation.bound(REQUEST):
        run = kit.create()
    with caplog.at_level("DEBUG", logger="scheduler.dispatch"):
        kit.settle()
    (line,) = (record for record in caplog.records if record.message == "attempt_dispatched")
    assert line.request_id == REQUEST
    assert line.attempt.startswith(run)


def test_a_run_that_no_request_made_has_none(kit) -> None:
    kit.apply({"a": {}})
    run = kit.run()
    assert kit.show(run)["request_id"] is None
    assert traces(kit) == {("flow", None)}


@pytest.mark.parametrize("request_id", [REQUEST, None])
def test_the_runner_works_under_it(kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_id) -> None:
    kit.apply({"a": {}})
    with correlation.bound(request_id):
        kit.run()
    (workload,) = kit.stub.submitted
    seen: list[tuple[str | None, str]] = []

    def run(_self, _config, context: NodeContext) -> None:
        seen.append((correlation.current(), context.request_id))

    monkeypatch.setattr("agentflow.nodes.noop.NoopNode.run", run)
    with correlation.bound("of an attempt before"):
        run_attempt(workload, work_dir=tmp_path, bundle_dir=None, log=lambda *_, **__: None, mask=str)
    assert seen == [(request_id, request_id or "")]

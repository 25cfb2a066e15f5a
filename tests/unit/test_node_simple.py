"""noop, template, branch and wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from agentflow.nodes import wait
from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.branch import BranchConfig, BranchNode
from agentflow.nodes.noop import NoopConfig, NoopNode
from agentflow.nodes.template import TemplateConfig, TemplateNode
from agentflow.nodes.wait import WaitConfig, WaitNode, due_at
from agentflow.nodes.workflow import WorkflowNode

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(("config", "output"), [({}, None), ({"output": 0}, 0), ({"output": {"a": [1]}}, {"a": [1]})])
def test_noop_returns_its_config(config, output):
    assert NoopNode().run(NoopConfig(**config), NodeContext()) == output


@pytest.mark.parametrize(
    ("rendered", "text"),
    [("", ""), ("Grüße", "Grüße"), (5, "5"), (None, "null"), (True, "true"), ({"ä": [1, "x"]}, '{"ä": [1, "x"]}')],
)
def test_template_returns_text_and_writes_native_values_as_json(rendered, text):
    assert TemplateNode().run(TemplateConfig(template=rendered), NodeContext()) == text


@pytest.mark.parametrize("node_type", [BranchNode, WorkflowNode])
def test_what_the_scheduler_carries_out_no_executor_can(node_type):
    with pytest.raises(NodeFailed, match=f"`{node_type.name}` node is the scheduler's own"):
        node_type().run(None, NodeContext())


@pytest.mark.parametrize("value", ["true", "false", "", 1, 0, [], "{{ x }}"])
def test_branch_refuses_a_condition_that_is_not_a_bool(value):
    with pytest.raises(ValidationError):
        BranchConfig.model_validate({"cases": [{"when": value, "to": ["a"]}]})


@pytest.mark.parametrize(
    ("config", "due"),
    [
        ({"for": "90s"}, NOW + timedelta(seconds=90)),
        ({"for": "PT1H"}, NOW + timedelta(hours=1)),
        ({"until": "2026-11-22T13:00:00Z"}, NOW + timedelta(hours=1)),
        ({"until": "2026-11-22T13:00:00+01:00"}, NOW),
        ({"until": "2026-11-22T13:00:00"}, NOW + timedelta(hours=1)),
        ({"until": "2020-01-01"}, datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_wait_is_due_after_its_duration_or_at_its_time_in_utc(config, due):
    assert due_at(WaitConfig.model_validate(config), NOW) == due


def test_a_time_without_an_offset_is_in_utc_wherever_the_machine_is(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert due_at(WaitConfig(until="2026-11-22T12:00:00"), NOW) == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `time.sleep` moves; returns the sleeps."""
    sleeps = []
    monkeypatch.setattr(wait.time, "sleep", sleeps.append)
    monkeypatch.setattr(wait.time, "monotonic", lambda: sum(sleeps))
    monkeypatch.setattr(wait, "utc_now", lambda: NOW + timedelta(seconds=sum(sleeps)))
    return sleeps


@pytest.mark.parametrize("config", [{"for": "150s"}, {"until": "2026-11-22T12:02:30Z"}])
def test_wait_sleeps_in_steps_until_it_is_due_and_tells_how_long(clock, config):
    assert WaitNode().run(WaitConfig.model_validate(config), NodeContext()) == {"waited_s": 150}
    assert clock == [60, 60, 30]


def test_a_time_in_the_past_is_not_waited_for(clock):
    config = WaitConfig.model_validate({"until": "2020-01-01T00:00:00Z"})
    assert WaitNode().run(config, NodeContext()) == {"waited_s": 0}
    assert clock == []


def test_wait_tells_in_the_log_until_when():
    lines = []
    context = NodeContext(log=lambda text, **_: lines.append(text))
    WaitNode().run(WaitConfig.model_validate({"until": "2020-01-01T00:00:00Z"}), context)
    assert lines == ["waiting until 2020-01-01T00:00:00.000000Z"]

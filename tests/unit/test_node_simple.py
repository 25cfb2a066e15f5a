"""noop, template, branch and workflow."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.branch import BranchConfig, BranchNode
from agentflow.nodes.noop import NoopConfig, NoopNode
from agentflow.nodes.template import TemplateConfig, TemplateNode
from agentflow.nodes.workflow import WorkflowNode


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

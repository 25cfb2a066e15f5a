"""Runs another workflow. The scheduler starts it and waits for it without a slot."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentflow.nodes.base import LITERAL, NodeConfig, SchedulerNodeType

_NAME = r"^[a-z0-9][a-z0-9_-]{0,99}$"


class WorkflowConfig(NodeConfig):
    """Config of `workflow`."""

    name: str = Field(description="The workflow to run", pattern=_NAME, json_schema_extra=LITERAL)
    params: dict[str, Any] = Field(default_factory=dict, description="Params of the sub-run")
    version: int | None = Field(
        None, description="Version to run; default the published one", ge=1, json_schema_extra=LITERAL
    )


class WorkflowNode(SchedulerNodeType[WorkflowConfig]):
    """A sub-run."""

    name = "workflow"
    title = "Workflow"
    description = "Runs another workflow with params and gives its declared outputs."
    Config = WorkflowConfig

"""Runs another workflow. The scheduler starts it and waits for it without a slot."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from agentflow.nodes.base import LITERAL, NodeConfig, SchedulerNodeType

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


def _read_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be the name of a workflow: small letters, digits, `-` and `_`")
    return value


#: The name of a workflow.
WorkflowName = Annotated[str, AfterValidator(_read_name)]


class WorkflowConfig(NodeConfig):
    """Config of `workflow`."""

    name: WorkflowName = Field(description="The workflow to run", json_schema_extra=LITERAL)
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

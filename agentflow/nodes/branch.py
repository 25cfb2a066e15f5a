"""Chooses which of its direct downstreams go on; the scheduler skips the others."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from agentflow.nodes.base import LITERAL, NodeConfig, SchedulerNodeType
from agentflow.nodes.fields import NodeId


class BranchCase(BaseModel):
    """One condition and where it leads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: StrictBool | None = Field(
        description="One `{{ }}` that gives true or false (null counts as false)",
        json_schema_extra={"type": ["string", "boolean"]},
    )
    to: tuple[NodeId, ...] = Field(description="Direct downstreams that go on")


class BranchConfig(NodeConfig):
    """Config of `branch`."""

    cases: tuple[BranchCase, ...] = Field(description="The first case that is true is taken", min_length=1)
    default: tuple[NodeId, ...] = Field(
        (), description="Direct downstreams that go on when no case is true", json_schema_extra=LITERAL
    )


class BranchNode(SchedulerNodeType[BranchConfig]):
    """The first true case wins."""

    name = "branch"
    title = "Branch"
    description = "Lets the downstreams of the first true case go on and skips the others."
    Config = BranchConfig

"""Does nothing: joins branches, marks milestones, stands in while a workflow is drawn."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentflow.nodes.base import NodeConfig, NodeContext, NodeType


class NoopConfig(NodeConfig):
    """Config of `noop`."""

    output: Any = Field(None, description="Value that becomes the node's output")


class NoopNode(NodeType[NoopConfig]):
    """Returns its config."""

    name = "noop"
    title = "No-op"
    description = "Does nothing and returns a fixed value, if one is given."
    Config = NoopConfig

    def run(self, config: NoopConfig, context: NodeContext) -> Any:  # noqa: ARG002 - the signature of every node
        """The configured output."""
        return config.output

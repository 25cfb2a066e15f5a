"""Renders a text from params and upstream outputs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from agentflow.nodes.base import NodeConfig, NodeContext, NodeType
from agentflow.nodes.fields import as_text


class TemplateConfig(NodeConfig):
    """Config of `template`."""

    template: Annotated[str, BeforeValidator(as_text)] = Field(description="Jinja text, such as a prompt or a report")


class TemplateNode(NodeType[TemplateConfig]):
    """The runner renders every config; this type only hands the text on."""

    name = "template"
    title = "Template"
    description = "Fills a text with params and the outputs of earlier nodes."
    Config = TemplateConfig

    def run(self, config: TemplateConfig, context: NodeContext) -> str:  # noqa: ARG002 - the signature of every node
        """The rendered text; a lone `{{ }}` that gave no text is written as JSON."""
        return config.template

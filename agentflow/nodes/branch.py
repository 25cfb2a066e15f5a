"""Chooses which of its direct downstreams go on; the scheduler skips the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from agentflow.nodes.base import LITERAL, NodeConfig, NodeContext, NodeType
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


class BranchNode(NodeType[BranchConfig]):
    """The first true case wins."""

    name = "branch"
    title = "Branch"
    description = "Lets the downstreams of the first true case go on and skips the others."
    Config = BranchConfig

    def run(self, config: BranchConfig, context: NodeContext) -> list[str]:
        """Ids of the chosen downstreams."""
        for number, case in enumerate(config.cases, 1):
            if case.when:
                context.log(f"case {number} is true: {', '.join(case.to) or 'nothing goes on'}")
                return list(case.to)
        context.log(f"no case is true: {', '.join(config.default) or 'nothing goes on'}")
        return list(config.default)


def targets(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each node id that a branch's raw config names, with its path inside the config; odd shapes are passed over."""
    cases = config.get("cases")
    for number, case in enumerate(cases if isinstance(cases, list) else []):
        if isinstance(case, Mapping):
            yield from _ids(case.get("to"), f"cases[{number}].to")
    yield from _ids(config.get("default"), "default")


def _ids(value: Any, path: str) -> Iterator[tuple[str, str]]:
    for number, node in enumerate(value if isinstance(value, list) else []):
        if isinstance(node, str):
            yield f"{path}[{number}]", node

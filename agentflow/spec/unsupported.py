"""Features of the document that this version reads but cannot run: one row each, deleted by whoever builds it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from agentflow.spec.findings import Finding
from agentflow.spec.models import WorkflowSpec
from agentflow.spec.paths import Path

WORKFLOW_KEYS = ("deadline", "notify")
NODE_KEYS = ("outputs",)


def unsupported(spec: WorkflowSpec) -> Iterator[Finding]:
    """Every use of such a feature."""
    yield from _written(spec, (), WORKFLOW_KEYS)
    yield from _written(spec.defaults, ("defaults",), NODE_KEYS)
    for node_id, node in spec.nodes.items():
        yield from _written(node, ("nodes", node_id), NODE_KEYS)


def _written(model: BaseModel, path: Path, keys: tuple[str, ...]) -> Iterator[Finding]:
    fields = type(model).model_fields
    for key in keys:
        if key in model.model_fields_set and key in fields and getattr(model, key) != fields[key].get_default():
            yield Finding((*path, key), f"`{key}` is not supported in this version", None, True)

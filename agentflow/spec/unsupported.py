"""Features of the document that this version reads but cannot run: one row each, deleted by whoever builds it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from agentflow.spec.findings import Finding
from agentflow.spec.models import WorkflowSpec
from agentflow.spec.paths import Path

WORKFLOW_KEYS = ("deadline", "notify")
NODE_KEYS = ("outputs",)
TRIGGER_TYPES = ("webhook",)
CHANGES = {
    "webhook": "start runs with `agentflow trigger`",
}


def unsupported(spec: WorkflowSpec) -> Iterator[Finding]:
    """Every use of such a feature."""
    yield from _written(spec, (), WORKFLOW_KEYS)
    yield from _written(spec.defaults, ("defaults",), NODE_KEYS)
    for index, trigger in enumerate(spec.triggers):
        if trigger.type in TRIGGER_TYPES:
            yield _refusal(("triggers", index, "type"), f"trigger type `{trigger.type}`", trigger.type)
    for node_id, node in spec.nodes.items():
        yield from _written(node, ("nodes", node_id), NODE_KEYS)


def _written(model: BaseModel, path: Path, keys: tuple[str, ...]) -> Iterator[Finding]:
    fields = type(model).model_fields
    for key in keys:
        if key in model.model_fields_set and key in fields and getattr(model, key) != fields[key].get_default():
            yield _refusal((*path, key), f"`{key}`", key, of_key=True)


def _refusal(path: Path, what: str, word: str, *, of_key: bool = False) -> Finding:
    return Finding(path, f"{what} is not supported in this version", CHANGES.get(word), of_key)

"""A spec back as a document: without what equals the defaults, keys in reading order; and its content hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from agentflow.spec.models import Defaults, WorkflowSpec
from agentflow.spec.policy import BUILT_IN, fallback

_WORKFLOW_ORDER = [
    "name",
    "title",
    "description",
    "tags",
    "notes",
    "params",
    "triggers",
    "max_active_runs",
    "concurrency",
    "timeout",
    "deadline",
    "depends_on_past",
    "max_consecutive_failures",
    "notify",
    "executor",
    "queue",
    "defaults",
    "nodes",
    "outputs",
]
_NODE_ORDER = [
    "type",
    "title",
    "notes",
    "group",
    "needs",
    "trigger_rule",
    "when",
    "for_each",
    "max_parallel",
    "repeat",
    "retries",
    "retry_delay",
    "retry_backoff",
    "retry_max_delay",
    "retry_jitter",
    "retry_on",
    "fail_on",
    "timeout",
    "executor",
    "queue",
    "pool",
    "pool_slots",
    "priority",
    "resources",
    "config",
    "outputs",
    "position",
]
_UNHASHED_WORKFLOW = {"title", "description", "tags", "notes"}
_UNHASHED_NODE = {"title", "notes", "group", "position"}
_SHARED = tuple(Defaults.model_fields)


def to_document(spec: WorkflowSpec) -> dict[str, Any]:
    """JSON that `parse_document` reads back to an equal spec; keys that equal their default are left out."""
    raw = spec.model_dump(mode="json", exclude_defaults=True)
    if "defaults" in raw:
        raw["defaults"] = _ordered(raw["defaults"], _NODE_ORDER)
        if not raw["defaults"]:
            del raw["defaults"]
    raw["nodes"] = {node_id: _ordered(node, _NODE_ORDER) for node_id, node in raw["nodes"].items()}
    return {key: raw[key] for key in _WORKFLOW_ORDER if key in raw}


def _ordered(node: dict[str, Any], order: list[str]) -> dict[str, Any]:
    result = {key: node[key] for key in order if key in node}
    if not result.get("resources", True):
        del result["resources"]
    for key in ("retry_backoff", "retry_jitter"):
        if key in result:
            result[key] = _plain_number(result[key])
    if "position" in result:
        result["position"] = {axis: _plain_number(value) for axis, value in result["position"].items()}
    return result


def content_hash(spec: WorkflowSpec) -> str:
    """SHA-256, hex, of what the workflow does: unchanged by titles, notes, positions, order of keys, and by whether
    a default is written or left out. The same for a document that went through JSON or Postgres' jsonb.
    """
    document = to_document(spec)
    for key in _UNHASHED_WORKFLOW:
        document.pop(key, None)
    shared = {key: fallback(spec, key) for key in _SHARED}
    document["nodes"] = {node_id: _hashed_node(node, shared) for node_id, node in document["nodes"].items()}
    if "defaults" in document:
        document["defaults"] = {key: value for key, value in document["defaults"].items() if value != BUILT_IN.get(key)}
        if not document["defaults"]:
            del document["defaults"]
    text = json.dumps(_canonical(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed_node(node: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    result = {
        key: value
        for key, value in node.items()
        if key not in _UNHASHED_NODE and not (key in shared and value == shared[key])
    }
    if "needs" in result:
        result["needs"] = sorted(set(result["needs"]))
    return result


def _canonical(value: Any) -> Any:
    """Numbers of one value get one text: 1.0 as 1, for jsonb and JavaScript do not tell them apart."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return _plain_number(value)


def _plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value

"""The JSON Schema of the workflow document, for editors and `agentflow schema`."""

from __future__ import annotations

from typing import Any

from agentflow.spec.check_triggers import KEYS_OF_TYPE
from agentflow.spec.models import WorkflowSpec

_TEMPLATE = {"type": "string", "pattern": r"\{[\{%#]"}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a workflow file, the configs of the installed node types included."""
    schema = _without_null(WorkflowSpec.model_json_schema(by_alias=True))
    schema["$defs"]["TriggerSpec"]["allOf"] = [
        _if_type(name, {"required": list(required)}) for name, (required, _) in KEYS_OF_TYPE.items() if required
    ]
    schema["$defs"]["NodeSpec"]["allOf"] = _config_rules()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _config_rules() -> list[dict[str, Any]]:
    from agentflow.nodes import registry

    return [
        _if_type(name, {"properties": {"config": _with_templates(registry.config_schema(name))}})
        for name in registry.names()
    ]


def _if_type(name: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _with_templates(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose values may be templates that get their type at run time."""
    definitions = config.pop("$defs", {})
    result: dict[str, Any] = _inlined(config, definitions)
    for name, field in result.get("properties", {}).items():
        if field.get("type") != "string" and field.get("x-template", True):
            description = {"description": field["description"]} if "description" in field else {}
            result["properties"][name] = {"anyOf": [field, _TEMPLATE], **description}
    return result


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """References replaced by what they name: the configs' definitions are not the document's."""
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        inner = definitions[value["$ref"].rpartition("/")[2]]
        return _inlined({**inner, **{key: item for key, item in value.items() if key != "$ref"}}, definitions)
    return {key: _inlined(item, definitions) for key, item in value.items()}


def _without_null(value: Any) -> Any:
    """Optional keys as people write them: left out, not null."""
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: _without_null(item) for key, item in value.items()}
    options = result.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del result["anyOf"]
        result = {**(rest[0] if len(rest) == 1 else {"anyOf": rest}), **result}
    if result.get("default", "") is None:
        del result["default"]
    return result

"""Types of single values in the workflow document, and the strict base of its models."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from agentflow.durations import parse_duration
from agentflow.spec.resources import parse_cpu, parse_memory
from agentflow.states import TriggerRule

WORKFLOW_NAME = r"^[a-z0-9][a-z0-9_-]{0,99}$"
NODE_ID = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$"
WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
_MAX_KEYS = 100  # more than any model has: an error for each of a million wrong keys would fill the memory
INT32 = 2**31 - 1  #: What Postgres' integer columns hold.


class SpecModel(BaseModel):
    """Refuses unknown keys and never converts; a key without a value counts as not written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if len(data) > _MAX_KEYS:
            known = ", ".join(list(cls.model_fields)[:10])
            raise ValueError(f"has {len(data):,} keys; it knows {known}, …")
        if None in data.values():
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return data


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _positive_duration(text: str) -> str:
    if not parse_duration(text):
        raise ValueError("must be longer than 0")
    return text


def _cpu(value: Any) -> Any:
    parse_cpu(value)
    return value


def _memory(value: Any) -> Any:
    parse_memory(value)
    return value


def _condition(value: Any) -> Any:
    if not isinstance(value, bool | str):
        raise ValueError("must be one {{ expression }}, true or false")  # noqa: TRY004 - pydantic expects ValueError
    return value


def _every(value: Any) -> Any:
    if isinstance(value, str):
        return _positive_duration(value)
    if not isinstance(value, dict):
        raise ValueError("must be a duration such as 15m")  # noqa: TRY004 - pydantic expects ValueError
    return value


def _notes(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("must be text or a list of notes")  # noqa: TRY004 - pydantic expects ValueError
    return value


_DURATION_SCHEMA = {"type": "string", "examples": ["250ms", "30s", "5m", "2h", "1d", "PT5M"]}

Duration = Annotated[str, AfterValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
PositiveDuration = Annotated[str, AfterValidator(_positive_duration), WithJsonSchema(_DURATION_SCHEMA)]
_ERROR_TYPE = re.compile(r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")
_MAX_EXIT_CODE = 255


def _error_rule(value: Any) -> Any:
    if isinstance(value, str) and _ERROR_TYPE.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_EXIT_CODE:
        return value
    raise ValueError(f"must be the type of an error, such as Timeout, or an exit code from 1 to {_MAX_EXIT_CODE}")


WorkflowName = Annotated[str, StringConstraints(pattern=WORKFLOW_NAME)]
NodeId = Annotated[str, StringConstraints(pattern=NODE_ID)]
Word = Annotated[str, StringConstraints(pattern=WORD)]  #: Name of a pool, queue or executor.
Text = Annotated[str, StringConstraints(max_length=100_000)]
RuleName = Annotated[TriggerRule, Field(strict=False)]
Condition = Annotated[
    Any,
    AfterValidator(_condition),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": r"^\s*\{\{[\s\S]*\}\}\s*$"}]}),
]
Cpu = Annotated[
    Any, AfterValidator(_cpu), WithJsonSchema({"type": ["string", "number"], "examples": ["500m", 2], "title": "Cpu"})
]
Memory = Annotated[
    Any,
    AfterValidator(_memory),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["512Mi", "1G"], "title": "Memory"}),
]
Every = Annotated[
    Any,
    AfterValidator(_every),
    WithJsonSchema({"anyOf": [_DURATION_SCHEMA, {"type": "object", "examples": [{"months": 1}]}]}),
]
#: `Timeout`, `ConnectionError`, `requests.exceptions.HTTPError`; or an exit code.
ErrorRule = Annotated[
    Any,
    AfterValidator(_error_rule),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _ERROR_TYPE.pattern},
                {"type": "integer", "minimum": 1, "maximum": 255},
            ]
        }
    ),
]
Notes = Annotated[Any, AfterValidator(_notes), WithJsonSchema({"type": ["string", "array"]})]

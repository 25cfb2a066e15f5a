"""Field types that several node types share."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from agentflow.durations import format_duration, parse_duration

#: Marks a field in which `secrets.*` is refused: `Field(json_schema_extra=NO_SECRETS)`.
NO_SECRETS: dict[str, Any] = {"x-secrets": False}

#: Marks a field that names a connection, whose fields the attempt is then given.
CONNECTION: dict[str, Any] = {"x-connection": True}

_NODE_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def as_text(value: Any) -> str:
    """Text as it is, anything else as JSON: what a template's native value becomes where text is needed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_node_id(value: str) -> str:
    if not _NODE_ID.fullmatch(value):
        raise ValueError("must be the id of a node")
    return value


def _read_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError("must be a duration such as 250ms, 30s, 5m, 2h or 1d")


def _read_text(value: object) -> object:
    if value is None:
        raise ValueError("is null; give a text, or leave the key out")
    return as_text(value)


def _read_scalar(value: object) -> object:
    if isinstance(value, dict | list):
        raise ValueError("must be text, a number or a boolean, not a list or an object")  # noqa: TRY004 - pydantic reports ValueError
    return _read_text(value)


def _read_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 time such as 2026-12-01T09:00:00Z")  # noqa: TRY004 - pydantic reports ValueError
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an ISO 8601 time such as 2026-12-01T09:00:00Z") from None


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


#: ISO 8601; without an offset it is in UTC.
Moment = Annotated[
    datetime,
    BeforeValidator(_read_time),
    AfterValidator(_in_utc),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

#: `30s`, `5m`, ISO 8601.
Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "duration"}),
]

#: Text; numbers, booleans, lists and objects are written as JSON, null is an error.
Text = Annotated[str, BeforeValidator(_read_text), WithJsonSchema({})]

#: Text, or a number or boolean, which is written as JSON.
ScalarText = Annotated[str, BeforeValidator(_read_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})]

#: The id of a node (SEMANTICS 2).
NodeId = Annotated[
    str, AfterValidator(_read_node_id), WithJsonSchema({"type": "string", "pattern": f"^{_NODE_ID.pattern}$"})
]

"""The part of JSON Schema that params use: is a schema valid, does a value fit it.

By hand because it is small, and because every keyword that is not understood must be an error rather than ignored.
Patterns run on Rust's regex engine (in pydantic), which takes linear time whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from agentflow.spec.findings import Finding, did_you_mean
from agentflow.spec.limits import MAX_DEPTH
from agentflow.spec.paths import Path

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
FORMATS = ("date", "date-time")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})")
_MAX_PATTERN = 1000  # characters


def has_type(value: Any, name: str) -> bool:
    """Whether a JSON value is of a JSON Schema type; true and false are no numbers."""
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types a schema names; none means any."""
    named = schema.get("type")
    return [named] if isinstance(named, str) else list(named or ())


# --- Is the schema valid? -----------------------------------------------------------------------------------------


def _is_text(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be text"


def _is_number(value: Any) -> str | None:
    return None if has_type(value, "number") else "must be a number"


def _is_length(value: Any) -> str | None:
    return None if has_type(value, "integer") and value >= 0 else "must be a whole number from 0"


def _is_list(value: Any) -> str | None:
    return None if isinstance(value, list) else "must be a list"


def _is_enum(value: Any) -> str | None:
    return None if isinstance(value, list) and value else "must be a list with at least one value"


def _is_names(value: Any) -> str | None:
    good = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return None if good else "must be a list of names"


def _is_types(value: Any) -> str | None:
    names = value if isinstance(value, list) and value else [value]
    wrong = [name for name in names if not (isinstance(name, str) and name in TYPES)]
    return f"{wrong[0]!r:.60} is not a type; types are {', '.join(TYPES)}" if wrong else None


def _is_format(value: Any) -> str | None:
    return None if value in FORMATS else f"{value!r:.60} is not supported; formats are {', '.join(FORMATS)}"


def _is_pattern(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > _MAX_PATTERN:
        return f"must be text of at most {_MAX_PATTERN} characters"
    try:
        _matcher(value)
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
        return f"is not a pattern we can match: {reason}"
    return None


def _anything(_: Any) -> str | None:
    return None


KEYWORDS: dict[str, Callable[[Any], str | None]] = {
    "type": _is_types,
    "title": _is_text,
    "description": _is_text,
    "default": _anything,
    "examples": _is_list,
    "enum": _is_enum,
    "const": _anything,
    "minimum": _is_number,
    "maximum": _is_number,
    "minLength": _is_length,
    "maxLength": _is_length,
    "pattern": _is_pattern,
    "format": _is_format,
    "items": _anything,
    "properties": _anything,
    "required": _is_names,
}


def schema_findings(schema: Any, path: Path) -> Iterator[Finding]:
    """What is wrong with a param's schema, its default included."""
    found = list(_keyword_findings(schema, path))
    yield from found
    if not found and "default" in schema:
        for finding in value_findings(schema["default"], schema, (*path, "default")):
            yield Finding(finding.path, f"the default does not fit the schema: {finding.message}")


def _keyword_findings(schema: Any, path: Path) -> Iterator[Finding]:
    if not isinstance(schema, dict):
        yield Finding(path, "must be a schema", "write a schema such as {type: string}")
        return
    for keyword, value in schema.items():
        check = KEYWORDS.get(keyword)
        if check is None:
            hint = did_you_mean(keyword, KEYWORDS, what="keywords")
            yield Finding((*path, keyword), f"unknown schema keyword `{keyword[:60]}`", hint, of_key=True)
        elif complaint := check(value):
            yield Finding((*path, keyword), f"`{keyword}` {complaint}" if complaint[0] != "`" else complaint)
    if "items" in schema:
        yield from _keyword_findings(schema["items"], (*path, "items"))
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield Finding((*path, "properties"), "`properties` must be a mapping of names to schemas")
        return
    for name, inner in properties.items():
        yield from _keyword_findings(inner, (*path, "properties", name))


# --- Does a value fit? --------------------------------------------------------------------------------------------


def value_findings(value: Any, schema: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Why a value does not fit a valid schema."""
    if len(path) > 2 * MAX_DEPTH:
        yield Finding(path, "nested too deep")
        return
    types = types_of(schema)
    if types and not any(has_type(value, name) for name in types):
        yield Finding(path, f"must be {_either(types)}, not {_json_type(value)}")
        return
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        yield Finding(path, f"must be one of {_listed(schema['enum'])}")
    if "const" in schema and not _same(value, schema["const"]):
        yield Finding(path, f"must be {schema['const']!r:.60}")
    if isinstance(value, str):
        yield from (Finding(path, complaint) for complaint in _text_complaints(value, schema))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from (Finding(path, complaint) for complaint in _number_complaints(value, schema))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from value_findings(item, schema["items"], (*path, index))
    elif isinstance(value, dict):
        yield from _object_findings(value, schema, path)


def _text_complaints(value: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"must have at least {schema['minLength']} characters, has {len(value)}"
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield f"must have at most {schema['maxLength']} characters, has {len(value)}"
    if "pattern" in schema and not _matches(schema["pattern"], value):
        yield f"must match {schema['pattern']}"
    if schema.get("format") == "date" and not _is_date(value):
        yield "must be a date such as 2026-12-01"
    if schema.get("format") == "date-time" and not _is_date_time(value):
        yield "must be a time with offset such as 2026-12-01T09:00:00Z"


def _number_complaints(value: float, schema: Mapping[str, Any]) -> Iterator[str]:
    if "minimum" in schema and value < schema["minimum"]:
        yield f"must be at least {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"must be at most {schema['maximum']}"


def _object_findings(value: dict[str, Any], schema: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    for name in schema.get("required", ()):
        if name not in value:
            yield Finding(path, f"`{name}` is missing")
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            yield from value_findings(value[name], inner, (*path, name))


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _matches(pattern: str, value: str) -> bool:
    try:
        _matcher(pattern).validate_python(value)
    except ValidationError:
        return False
    return True


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.fullmatch(text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _is_date_time(text: str) -> bool:
    try:
        return bool(_DATE_TIME.fullmatch(text)) and bool(datetime.fromisoformat(text.upper()))
    except ValueError:
        return False


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON: 1 and 1.0 are equal, 1 and true are not, at any depth."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)


def _json_type(value: Any) -> str:
    name = next((name for name in TYPES if has_type(value, name)), type(value).__name__)
    return name if isinstance(value, list | dict) or value is None else f"{name} {value!r:.60}"


def _either(types: list[str]) -> str:
    return " or ".join(types)


def _listed(values: list[Any]) -> str:
    shown = ", ".join(f"{value!r:.40}" for value in values[:10])
    return f"{shown}, …" if len(values) > 10 else shown

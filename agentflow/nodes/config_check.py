"""What is wrong with a node's config, before anything runs and while its templates are not rendered yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentflow.errors import Problem
from agentflow.nodes.base import NodeType

#: Pydantic context of a check before the run; validators that cost too much for each attempt ask for it.
STATIC: Final = {"static": True}

_TEMPLATE_MARKS = ("{{", "{%", "{#")
_MISSING: Final = object()
_MESSAGES: Final = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "model_type": "must be an object",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def literal_fields(config: type[BaseModel]) -> frozenset[str]:
    """Fields, as written in files, whose text is never a template; inner ones with dots: `http.condition`."""
    return _marked(config, "x-template", False)


def secret_free_fields(config: type[BaseModel]) -> frozenset[str]:
    """Top-level fields, as written in files, that may not mention `secrets`."""
    return _marked(config, "x-secrets", False)


def connection_fields(config: type[BaseModel]) -> frozenset[str]:
    """Fields that name a connection; inner ones with dots: `sql.connection`."""
    return _marked(config, "x-connection", True)


def config_problems(node_type: NodeType[Any], config: Mapping[str, Any]) -> list[Problem]:
    """All problems, with paths relative to the config.

    A value that contains a template gets its type at run time, so errors about its type or form are left out.
    """
    literal = literal_fields(node_type.Config)
    try:
        node_type.Config.model_validate(config, context=STATIC)
    except ValidationError as error:
        found = [
            _problem(node_type.Config, item)
            for item in error.errors(include_url=False)
            if not _waits_for_a_template(item, config, literal)
        ]
    else:
        found = []
    return _without_repeats([*found, *_secrets_where_none_may_be(node_type, config)])


def contains_template(value: Any) -> bool:
    """Whether any text in the value, at any depth, is a template."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if any(mark in item for mark in _TEMPLATE_MARKS):
                return True
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return False


def dotted(path: Iterable[str | int]) -> str:
    """`cases[0].when` for `("cases", 0, "when")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _marked(config: type[BaseModel], mark: str, value: bool) -> frozenset[str]:
    found = set()
    for name, info in config.model_fields.items():
        key = info.alias or name
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get(mark) is value:
            found.add(key)
        for model in _models_of(info.annotation):
            found |= {f"{key}.{inner}" for inner in _marked(model, mark, value)}
    return frozenset(found)


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field holds: itself, or one of its alternatives; not those in lists."""
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for part in get_args(annotation):
            yield from _models_of(part)


def _waits_for_a_template(item: ErrorDetails, config: Mapping[str, Any], literal: frozenset[str]) -> bool:
    location = item["loc"]
    if not location or not literal.isdisjoint(_prefixes(location)) or item["type"] in {"missing", "extra_forbidden"}:
        return False
    return contains_template(_value_at(config, location))


def _prefixes(location: tuple[str | int, ...]) -> set[str]:
    """`a`, `a.b`, … of a place."""
    return {dotted(location[:end]) for end in range(1, len(location) + 1)}


def _value_at(config: Any, location: tuple[str | int, ...]) -> Any:
    """The value, or the innermost one on the way: pydantic adds names of union members to its locations."""
    value = config
    for part in location:
        inner = _step(value, part)
        if inner is _MISSING:
            break
        value = inner
    return value


def _step(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, _MISSING)
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return value[part]
    return _MISSING


def _problem(config: type[BaseModel], item: ErrorDetails) -> Problem:
    path = dotted(item["loc"])
    if item["type"] == "missing":
        return Problem(f"`{item['loc'][-1]}` is required", path)
    if item["type"] == "extra_forbidden":
        return Problem(f"unknown key `{item['loc'][-1]}`", path, hint=_did_you_mean(config, item["loc"]))
    message = _MESSAGES.get(item["type"]) or _plain(item["msg"])
    if item["loc"] and item["loc"][-1] == "[key]":  # how pydantic says that a key itself is wrong
        return Problem(f"`{item['loc'][-2]}` {message}", dotted(item["loc"][:-2]))
    return Problem(message, path)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")


def _did_you_mean(config: type[BaseModel], location: tuple[str | int, ...]) -> str | None:
    if len(location) > 1:  # inside a nested object: its keys are not at hand
        return None
    import difflib

    known = [info.alias or name for name, info in config.model_fields.items()]
    close = difflib.get_close_matches(str(location[0]), known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"


def _secrets_where_none_may_be(node_type: NodeType[Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    from agentflow.templates import TemplateProblem, find_references

    for name in sorted(secret_free_fields(node_type.Config) & config.keys()):
        text = config[name]
        if not isinstance(text, str) or not contains_template(text):
            continue
        try:
            names = find_references(text).names
        except TemplateProblem:
            continue  # the spec reports templates that cannot be read, with their line
        if "secrets" in names:
            yield Problem(
                f"secrets may not be used in `{name}`, where other processes and logs would see them",
                name,
                hint="give the secret by `env` or `files` and read it there",
            )


def _without_repeats(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))

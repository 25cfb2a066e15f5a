"""Params of a run: read from the command line, filled with defaults, checked against their schemas."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from agentflow.errors import FileNotReadable, ParamError, Problem
from agentflow.spec.findings import Finding, did_you_mean
from agentflow.spec.json_reader import Unreadable, read_json
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.param_schema import types_of, value_findings
from agentflow.spec.paths import path_text
from agentflow.spec.source import not_json, read_bytes

Schemas = Mapping[str, Mapping[str, Any]]


def check_params(schema: Schemas, given: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a run: those given, and defaults for the rest, in the order of the schemas.

    Raises:
        ParamError: Unknown, missing or wrong params, all of them.
    """
    _raise(list(param_findings(schema, given)))
    return filled(schema, given)


def filled(schema: Schemas, given: Mapping[str, Any]) -> dict[str, Any]:
    """Given params and defaults together, unchecked."""
    return {
        name: given[name] if name in given else copy.deepcopy(rules["default"])
        for name, rules in schema.items()
        if name in given or "default" in rules
    }


def param_findings(schema: Schemas, given: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with given params; paths begin with the param's name."""
    for name in given:
        if name not in schema:
            hint = did_you_mean(str(name), schema, what="params") or (
                "the workflow has no params" if not schema else None
            )
            yield Finding((name,), f"there is no param `{name}`", hint, of_key=True)
    for name, rules in schema.items():
        if name not in given:
            if "default" not in rules:
                yield Finding((name,), "is required and has no default")
            continue
        foreign = not_json(given[name])
        if foreign:
            yield from (Finding((name, *path), message) for path, message in foreign)
        else:
            yield from value_findings(given[name], rules, (name,))


def read_cli_params(schema: Schemas, pairs: Sequence[str], *, partial: bool = False) -> dict[str, Any]:
    """Read `K=V` words of the command line by the params' schemas (SEMANTICS section 8) and check them.

    Args:
        schema: Of the workflow's params.
        pairs: The words.
        partial: Others may still come from elsewhere: none is missing yet.

    Returns:
        The params that were given, without defaults.

    Raises:
        ParamError: Words that are no `K=V`, values that cannot be read, unknown, missing and wrong params, all at once.
    """
    given: dict[str, Any] = {}
    findings: list[Finding] = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            findings.append(Finding((pair,), "is not KEY=VALUE", "write --param city=Berlin"))
        elif name in given:
            findings.append(Finding((name,), "is given twice"))
        else:
            given[name] = text
    unreadable: set[str] = set()
    for name, text in given.items():
        try:
            given[name] = _read_value(text, schema.get(name, {}))
        except (ValueError, FileNotReadable) as error:
            unreadable.add(name)
            findings.append(Finding((name,), str(error)))
    for finding in param_findings(schema, given):
        name = str(finding.path[0])
        if name in schema and name not in given:
            if partial:
                continue
            findings.append(replace(finding, hint=f"give it: --param {name}=VALUE"))
        elif name not in unreadable:
            findings.append(finding)
    _raise(findings)
    return given


def _read_value(text: str, rules: Mapping[str, Any]) -> Any:
    if text.startswith("@"):
        return _json_file(FilePath(text[1:]).expanduser())
    types = types_of(rules)
    if types == ["string"]:
        return text
    try:
        value = _json(text)
    except ValueError:
        if not types or "string" in types:
            return text
        raise ValueError(f"must be {' or '.join(types)}, not {text[:60]!r}") from None
    return value


def _json(text: str) -> Any:
    if len(text) > 1 and text != text.strip() and not text.lstrip().startswith(("[", "{")):
        raise ValueError("spaces around a value")
    try:
        return read_json(text)[0]
    except Unreadable as error:
        raise ValueError(str(error)) from None


def _json_file(path: FilePath) -> Any:
    try:
        return _json(read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _raise(findings: list[Finding]) -> None:
    if findings:
        kept = findings[:MAX_PROBLEMS]
        raise ParamError([Problem(item.message, path=path_text(item.path), hint=item.hint) for item in kept])

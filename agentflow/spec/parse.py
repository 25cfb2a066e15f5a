"""From text, document or file to a checked WorkflowSpec."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from agentflow.errors import Problem, SpecError
from agentflow.graph import MAX_NODES
from agentflow.spec.check import Broken, check
from agentflow.spec.findings import Finding, from_pydantic, place
from agentflow.spec.json_reader import Unreadable
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.models import WorkflowSpec
from agentflow.spec.paths import Locator, NoPlaces, Path, member
from agentflow.spec.source import not_json, read_bytes, read_document

MAX_PARAMS = 1000
_ENOUGH = 20 * MAX_PROBLEMS  # findings that are collected before the rest is left uncounted
_CHUNK = 50  # nodes


def load_file(path: FilePath | str) -> WorkflowSpec:
    """Read and check a YAML or JSON file.

    Raises:
        FileNotReadable: There is no such file, or it is not one we read.
        SpecError: It is not a valid workflow; every problem with line and column.
    """
    return parse_text(read_bytes(FilePath(path)), file=str(path))


def parse_text(text: str | bytes, *, file: str) -> WorkflowSpec:
    """Read and check YAML or JSON text.

    Args:
        text: The content; bytes are UTF-8.
        file: Its name, for messages; `*.json` is read as JSON.

    Raises:
        SpecError: It is not a valid workflow; every problem with line and column.
    """
    try:
        document, locator = read_document(text, file=file)
    except Unreadable as error:
        raise SpecError(error.problems[:MAX_PROBLEMS], file=file) from None
    return _checked(document, locator, file)


def parse_document(doc: Any, *, file: str | None = None) -> WorkflowSpec:
    """Check a document of plain JSON values. It is not changed, and must not be changed afterwards.

    Raises:
        SpecError: It is not a valid workflow; every problem with its path.
    """
    return _checked(doc, NoPlaces(), file)


def _checked(document: Any, locator: Locator, file: str | None) -> WorkflowSpec:
    if not isinstance(document, dict):
        what = (
            "nothing but comments"
            if document is None
            else "a list"
            if isinstance(document, list)
            else "text"
            if isinstance(document, str)
            else "a single value"
        )
        hint = "begin with `name: my-workflow` and `nodes:`"
        raise SpecError([Problem(f"a workflow is a mapping, this is {what}", line=1, column=1, hint=hint)], file=file)
    foreign = [Finding(path, message) for path, message in not_json(document)]
    if foreign:
        raise SpecError(place(foreign, locator), file=file)
    spec, findings, uncounted = _validated(document)
    if spec is None or findings:
        raise SpecError(place(findings, locator, uncounted=uncounted), file=file)
    return spec


def _validated(document: dict[str, Any]) -> tuple[WorkflowSpec | None, list[Finding], int]:
    """The spec and everything that is wrong with it: when the shape is wrong, the sound rest is still checked.

    The number counts problems that are not in the list.
    """
    oversized = list(_oversized(document))
    if oversized:
        return None, oversized, 0
    try:
        spec = WorkflowSpec.model_validate(document)
    except ValidationError as error:
        if error.error_count() > _ENOUGH:
            first = _first_errors(document)
            findings = from_pydantic(WorkflowSpec, first, document) if first else []
            return None, findings, max(0, error.error_count() - len(findings))
        findings = from_pydantic(WorkflowSpec, error, document)
        return None, findings + _findings_of_rest(document, [finding.path for finding in findings]), 0
    return spec, list(islice(check(spec), _ENOUGH)), 0


def _oversized(document: dict[str, Any]) -> Iterator[Finding]:
    for key, most in (("nodes", MAX_NODES), ("params", MAX_PARAMS)):
        value = document.get(key)
        if isinstance(value, dict) and len(value) > most:
            yield Finding((key,), f"{len(value):,} {key} are more than {most:,}", of_key=True)


def _first_errors(document: dict[str, Any]) -> ValidationError | None:
    """Errors of the first nodes that have any; pydantic would spell out a million errors in a gigabyte."""
    nodes = list(document["nodes"].items()) if isinstance(document.get("nodes"), dict) else []
    for start in range(0, max(1, len(nodes)), _CHUNK):
        try:
            WorkflowSpec.model_validate({**document, "nodes": dict(nodes[start : start + _CHUNK])})
        except ValidationError as error:
            return error
    return None


def _findings_of_rest(document: dict[str, Any], broken_paths: list[Path]) -> list[Finding]:
    """Check what is left when everything broken is cut out."""
    if () in broken_paths:  # nothing is left
        return []
    rest = _without(document, broken_paths)
    try:
        spec = WorkflowSpec.model_validate(rest)
    except ValidationError:
        return []
    tops = {path[0] for path in broken_paths if path}
    nodes = frozenset(str(path[1]) for path in broken_paths if path[0] == "nodes" and len(path) > 1)
    broken = Broken(nodes=nodes, params="params" in tops, triggers=_broken_triggers(document, broken_paths))
    return [
        finding
        for finding in islice(check(spec, broken), _ENOUGH)
        if not any(finding.path[: len(path)] == path for path in broken_paths)
    ]


def _broken_triggers(document: dict[str, Any], paths: list[Path]) -> frozenset[int]:
    """Indexes of triggers with a broken key; all of them when one is cut out whole, for that shifts the others."""
    inside = [path for path in paths if path[0] == "triggers"]
    if any(len(path) <= 2 for path in inside):
        triggers = document.get("triggers")
        return frozenset(range(len(triggers) if isinstance(triggers, list) else 0))
    return frozenset(path[1] for path in inside if isinstance(path[1], int))


def _without(document: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    rest: dict[str, Any] = copy.deepcopy(document)
    if not isinstance(rest.get("name"), str) or ("name",) in paths:
        rest["name"] = "unnamed"
    # From the back, so that indexes of lists stay right.
    for path in sorted(set(paths), key=lambda path: [(isinstance(part, str), part) for part in path], reverse=True):
        container: Any = rest
        for part in path[:-1]:
            container = member(container, part)
        last = path[-1]
        if path == ("name",):
            continue
        if last == "type" and len(path) == 3 and isinstance(container, dict):
            container["type"] = "noop"
        elif isinstance(container, dict):
            container.pop(str(last), None)
        elif isinstance(container, list) and isinstance(last, int) and last < len(container):
            del container[last]
    return rest

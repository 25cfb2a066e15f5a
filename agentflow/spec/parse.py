"""From text, document or file to a checked WorkflowSpec."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from agentflow.errors import Problem, SpecError
from agentflow.spec.check import Broken, check
from agentflow.spec.findings import Finding, from_pydantic, place
from agentflow.spec.json_reader import Unreadable
from agentflow.spec.limits import MAX_PROBLEMS
from agentflow.spec.models import WorkflowSpec
from agentflow.spec.paths import Locator, NoPlaces, Path, member
from agentflow.spec.source import not_json, read_bytes, read_document

_ENOUGH = 20 * MAX_PROBLEMS  # findings that are collected before the rest is left uncounted


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
        what = "a list" if isinstance(document, list) else "text" if isinstance(document, str) else "a single value"
        hint = "begin with `name: my-workflow` and `nodes:`"
        raise SpecError([Problem(f"a workflow is a mapping, this is {what}", line=1, column=1, hint=hint)], file=file)
    foreign = [Finding(path, message) for path, message in not_json(document)]
    if foreign:
        raise SpecError(place(foreign, locator), file=file)
    spec, findings = _validated(document)
    if findings:
        raise SpecError(place(findings, locator), file=file)
    assert spec is not None
    return spec


def _validated(document: dict[str, Any]) -> tuple[WorkflowSpec | None, list[Finding]]:
    """The spec, or everything that is wrong: when the shape is wrong, the sound rest is still checked."""
    try:
        spec = WorkflowSpec.model_validate(document)
    except ValidationError as error:
        findings = from_pydantic(WorkflowSpec, error, document)
        return None, findings + _findings_of_rest(document, [finding.path for finding in findings])
    return spec, list(islice(check(spec), _ENOUGH))


def _findings_of_rest(document: dict[str, Any], broken_paths: list[Path]) -> list[Finding]:
    """Check what is left when everything broken is cut out."""
    if len(broken_paths) > _ENOUGH:
        return []
    rest = _without(document, broken_paths)
    try:
        spec = WorkflowSpec.model_validate(rest)
    except ValidationError:
        return []
    tops = {path[0] for path in broken_paths if path}
    nodes = frozenset(str(path[1]) for path in broken_paths if path[0] == "nodes" and len(path) > 1)
    broken = Broken(nodes=nodes, params="params" in tops, triggers="triggers" in tops)
    return [
        finding
        for finding in islice(check(spec, broken), _ENOUGH)
        if not any(finding.path[: len(path)] == path for path in broken_paths)
    ]


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

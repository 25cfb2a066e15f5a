"""One workflow file: what it is, and what came of reading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentflow.errors import AgentFlowError, Problem, SpecError
from agentflow.loader.process import DEFAULT_LIMITS, ChildLimits, ImportProblem, read_python

if TYPE_CHECKING:
    from agentflow.spec import WorkflowSpec


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A workflow file of a folder."""

    path: Path
    relative: str  #: Posix path below the root.
    root: Path  #: The folder whose modules its code may import, and which its bundle holds.
    kind: str  #: `yaml`, `json` or `python`.
    fingerprint: str  #: Reading it again can only give something else when this changes.


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a file holds. One bad workflow of a Python file leaves its others usable."""

    file: SourceFile
    specs: tuple[WorkflowSpec, ...] = ()
    problems: tuple[ImportProblem, ...] = ()


def load_source(file: SourceFile, *, limits: ChildLimits = DEFAULT_LIMITS) -> LoadResult:
    """Read one file; whatever is wrong with it becomes problems. Never raises for what the file contains.

    Raises:
        LoadInterrupted: `limits.stopped` said so.
    """
    if file.kind == "python":
        return _load_python(file, limits)
    from agentflow.spec import load_file

    try:
        return LoadResult(file, (load_file(file.path),))
    except AgentFlowError as error:
        return LoadResult(file, problems=problems_of(error, file.relative))


def _load_python(file: SourceFile, limits: ChildLimits) -> LoadResult:
    from agentflow.spec import parse_document

    report = read_python(file.path, file.root, limits)
    problems = list(report.problems)
    specs: list[WorkflowSpec] = []
    for found in report.workflows:
        try:
            spec = parse_document(found.document, file=file.relative)
        except AgentFlowError as error:
            problems += problems_of(error, file.relative, lines=found.lines, line=found.line)
            continue
        if any(other.name == spec.name for other in specs):
            message = f"workflow name `{spec.name}` is used twice in this file"
            problems.append(ImportProblem(file.relative, message, line=found.line, path="name"))
        else:
            specs.append(spec)
    return LoadResult(file, tuple(specs), tuple(problems))


def problems_of(
    error: AgentFlowError, file: str, *, lines: Mapping[str, int] | None = None, line: int | None = None
) -> tuple[ImportProblem, ...]:
    """An error of the spec as problems of a file, at the lines where the Python file made the nodes."""
    if not isinstance(error, SpecError):
        return (ImportProblem(file, error.message, hint=error.hint, line=line),)
    return tuple(
        ImportProblem(
            file=file,
            message=problem.message,
            line=problem.line if lines is None else _line_of(problem, lines, line),
            column=problem.column if lines is None else None,
            path=problem.path,
            hint=problem.hint,
        )
        for problem in error.problems
    )


def _line_of(problem: Problem, lines: Mapping[str, int], default: int | None) -> int | None:
    head, _, rest = problem.path.partition(".")
    if head != "nodes":
        return default
    # `nodes.a.needs[0]`, `nodes['a-b'].config` or `nodes.a`: the longest id that fits
    named: list[Any] = [name for name in lines if rest == name or rest.startswith((f"{name}.", f"{name}["))]
    return lines[max(named, key=len)] if named else default

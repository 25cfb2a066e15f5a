"""Workflow files that somebody names: `agentflow run FILE[::name]`, `apply FILE`, `validate FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentflow.documents import kind_of
from agentflow.errors import FileNotReadable, ImportFailed, Problem, SpecError, UsageError
from agentflow.loader.process import DEFAULT_LIMITS, ChildLimits
from agentflow.loader.sources import SourceFile, load_source

if TYPE_CHECKING:
    from agentflow.spec import WorkflowSpec


def bundle_root(path: Path, dags_folder: Path | None = None) -> Path:
    """The folder whose code a file's nodes may import: the DAG folder if the file lies in it, else its own folder."""
    file = path.absolute()
    if dags_folder is not None and file.is_relative_to(dags_folder.absolute()):
        return dags_folder.absolute()
    return file.parent


def load_python(path: Path, *, root: Path | None = None, limits: ChildLimits = DEFAULT_LIMITS) -> list[WorkflowSpec]:
    """Every module-level workflow of a Python file, read in a child process.

    Args:
        path: The file.
        root: The bundle's root (see `bundle_root`); the file's own folder by default.
        limits: Bounds of the child.

    Raises:
        FileNotReadable: It is missing or not a file.
        ImportFailed: It raises, hangs, exits or crashes, or one of its workflows is not valid.
    """
    if not path.is_file():
        if path.exists():
            raise FileNotReadable(f"{path} is not a file", hint="name one workflow file")
        raise FileNotReadable(f"{path} does not exist", hint="check the path; it is relative to where you are")
    base = root if root is not None else bundle_root(path)
    file = path.absolute()
    source = SourceFile(file, file.relative_to(base.absolute()).as_posix(), base.absolute(), "python", "")
    result = load_source(source, limits=limits)
    if result.problems:
        raise ImportFailed(
            [problem.as_problem() for problem in result.problems],
            file=str(path),
            traceback=result.problems[0].traceback,
            printed=result.problems[0].printed,
        )
    return list(result.specs)


def load_workflows(path: Path, name: str | None = None, *, root: Path | None = None) -> list[WorkflowSpec]:
    """The workflows of a YAML, JSON or Python file; with `name`, only that one.

    Raises:
        FileNotReadable: It cannot be read.
        SpecError: It is not valid, or has no workflow at all.
        UsageError: It has none of this name, or an ending that is not a workflow file's.
    """
    kind = kind_of(path.name)
    if kind == "python":
        specs = load_python(path, root=root)
    elif kind is not None:
        from agentflow.spec import load_file

        specs = [load_file(path)]
    else:
        raise UsageError(f"{path} is no workflow file", hint="these end in .yaml, .yml, .json or .py")
    if not specs:
        hint = "decorate a function at its top level with @workflow"
        raise SpecError([Problem("the file has no workflow", line=1, hint=hint)], file=str(path))
    return specs if name is None else [pick_workflow(specs, path, name)]


def pick_workflow(specs: Sequence[WorkflowSpec], path: Path, name: str | None) -> WorkflowSpec:
    """The one workflow that `FILE` or `FILE::name` means.

    Raises:
        UsageError: The file has none of this name, or several and none was named.
    """
    names = ", ".join(spec.name for spec in specs)
    if name is None:
        if len(specs) > 1:
            hint = f"say which: {path}::NAME with one of {names}"
            raise UsageError(f"{path} has {len(specs)} workflows", hint=hint)
        return specs[0]
    for spec in specs:
        if spec.name == name:
            return spec
    raise UsageError(f"{path} has no workflow {name!r}", hint=f"it has: {names}")


def load_workflow(path: Path, name: str | None = None, *, root: Path | None = None) -> WorkflowSpec:
    """`load_workflows` and `pick_workflow` together; raises what they raise."""
    return pick_workflow(load_workflows(path, root=root), path, name)

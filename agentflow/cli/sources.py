"""Workflow files as the command line names them: YAML, JSON or Python, and `FILE::name` for one of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.spec import WorkflowSpec

SUFFIXES = (".yaml", ".yml", ".json", ".py")


def load(path: Path) -> list[WorkflowSpec]:
    """Every workflow of a file; Python files are read in a child process.

    Raises:
        SpecError: The file is not valid.
        FileNotReadable: It cannot be read.
    """
    if path.suffix == ".py":
        from agentflow.loader import load_python

        return load_python(path)
    from agentflow.spec import load_file

    return [load_file(path)]


def load_one(target: str) -> tuple[WorkflowSpec, Path]:
    """The workflow that `FILE` or `FILE::name` means.

    Raises:
        UsageError: The file has several and none was named, or not this one.
    """
    text, _, name = target.partition("::")
    path = Path(text)
    specs = load(path)
    names = ", ".join(spec.name for spec in specs)
    if name:
        for spec in specs:
            if spec.name == name:
                return spec, path
        raise UsageError(f"{text} has no workflow {name!r}", hint=f"it has: {names}")
    if len(specs) > 1:
        raise UsageError(f"{text} has {len(specs)} workflows", hint=f"say which: {text}::NAME with one of {names}")
    if not specs:
        raise UsageError(f"{text} has no workflow", hint="call a function that is decorated with @workflow")
    return specs[0], path


def looks_like_file(target: str) -> bool:
    """Whether a NAME|FILE argument means a file: workflow names have neither slashes nor suffixes."""
    text = target.partition("::")[0]
    return "/" in text or text.endswith(SUFFIXES)

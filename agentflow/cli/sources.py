"""Workflow files as the command line names them: `FILE`, or `FILE::name` for one workflow of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentflow.spec import WorkflowSpec

SUFFIXES = (".yaml", ".yml", ".json", ".py")


def split(target: str) -> tuple[Path, str | None]:
    """`FILE::name` as file and name."""
    file, _, name = target.partition("::")
    return Path(file), name or None


def looks_like_file(target: str) -> bool:
    """Whether a NAME|FILE argument means a file: workflow names have neither slashes nor suffixes."""
    file, _ = split(target)
    return "/" in target or file.suffix in SUFFIXES


def load_one(target: str, dags: Path) -> WorkflowSpec:
    """The workflow that `FILE` or `FILE::name` means.

    Raises:
        FileNotReadable: It cannot be read.
        SpecError: It is not valid.
        UsageError: It has no such workflow, or several and none was named.
    """
    return load_with_siblings(target, dags)[0]


def load_with_siblings(target: str, dags: Path) -> tuple[WorkflowSpec, list[WorkflowSpec]]:
    """The workflow that `FILE` or `FILE::name` means, and the other ones of the file, which it may run.

    Raises:
        FileNotReadable, SpecError, UsageError: As `load_one`.
    """
    from agentflow.loader import bundle_root, load_workflows, pick_workflow

    path, name = split(target)
    specs = load_workflows(path, root=bundle_root(path, dags))
    spec = pick_workflow(specs, path, name)
    return spec, [other for other in specs if other is not spec]

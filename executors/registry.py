"""Finds executors by name: ours and those of other packages, through the entry points `agentflow.executors`."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from agentflow.errors import ExecutorUnknown
from executors.base import Executor, ExecutorContext

GROUP: Final = "agentflow.executors"


def names() -> list[str]:
    """Names of all installed executors, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(name: str, context: ExecutorContext) -> Executor:
    """An executor of this name, made but not started.

    Raises:
        ExecutorUnknown: Nothing of this name is installed, or it cannot be imported, or it is no executor.
    """
    point = _find(name)
    try:
        factory = point.load()
    except Exception as error:  # another package's import may raise anything
        raise ExecutorUnknown(
            f"executor `{name}` cannot be loaded from {point.value}: {type(error).__name__}: {error}",
            hint="install the extra that it needs, or remove it from AGENTFLOW_EXECUTORS",
        ) from error
    executor = factory(context)
    if not isinstance(executor, Executor):
        raise ExecutorUnknown(f"executor `{name}`: {point.value} lacks methods of executors.base.Executor")
    return executor


def check_installed(name: str) -> None:
    """Raise unless exactly one package offers an executor of this name; nothing is imported.

    Raises:
        ExecutorUnknown: None does, or several do.
    """
    _find(name)


def _find(name: str) -> EntryPoint:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"installed: {', '.join(names()) or 'none'}"
        raise ExecutorUnknown(f"there is no executor `{name}`", hint=hint)
    values = sorted({point.value for point in found})
    if len(values) > 1:
        raise ExecutorUnknown(
            f"executor `{name}` is offered by several packages: {', '.join(values)}",
            hint="uninstall all but one of them",
        )
    return found[0]

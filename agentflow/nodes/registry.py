"""The node types that are installed: ours, and those of other packages through the entry points `agentflow.nodes`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from agentflow.errors import NodeTypeUnknown, NodeTypeUnusable, Problem
from agentflow.nodes import config_check
from agentflow.nodes.base import AsyncNodeType, NodeType

GROUP: Final = "agentflow.nodes"

#: Worker pods carry the `agentflow` folder without the wheel's metadata; there the entry points of our own types
#: are missing. Where both exist, the entry points count.
BUILT_IN: Final[Mapping[str, str]] = {
    "branch": "agentflow.nodes.branch:BranchNode",
    "http": "agentflow.nodes.http:HttpNode",
    "noop": "agentflow.nodes.noop:NoopNode",
    "python": "agentflow.nodes.python:PythonNode",
    "shell": "agentflow.nodes.shell:ShellNode",
    "template": "agentflow.nodes.template:TemplateNode",
    "wait": "agentflow.nodes.wait:WaitNode",
    "workflow": "agentflow.nodes.workflow:WorkflowNode",
}


def names() -> list[str]:
    """Names of all installed node types, sorted; nothing is imported."""
    return sorted(_sources())


@cache
def get(name: str) -> NodeType[Any]:
    """The node type of this name, imported at its first use.

    Raises:
        NodeTypeUnknown: Nothing of this name is installed.
        NodeTypeUnusable: It cannot be imported, is no node type, or two packages offer it.
    """
    values = _sources().get(name)
    if values is None:
        import difflib

        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"installed: {', '.join(names())}"
        raise NodeTypeUnknown(f"there is no node type `{name}`", hint=hint)
    if len(values) > 1:
        raise NodeTypeUnusable(
            f"node type `{name}` is offered by several packages: {', '.join(sorted(values))}",
            hint="uninstall all but one of them",
        )
    return _load(name, next(iter(values)))


@cache
def literal_fields(name: str) -> frozenset[str]:
    """Config fields of a type whose text is never a template; inner ones with dots."""
    return config_check.literal_fields(get(name).Config)


def connections(name: str, config: Mapping[str, Any]) -> list[str]:
    """Names of the connections that a node of this type uses."""
    found = []
    for path in sorted(_connection_fields(name)):
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found.append(value)
    return found


@cache
def _connection_fields(name: str) -> frozenset[str]:
    return config_check.connection_fields(get(name).Config)


def uses_code(name: str) -> bool:
    """Whether the code bundle belongs to what a node of this type runs."""
    return get(name).uses_code


def shares_process(name: str, *, memory: int | None) -> bool:
    """Whether an attempt of this type may share a process (I/O lanes): the type says so itself, and is one of ours.

    `memory`: the bytes that the node asks for; a limit of its own needs a process of its own.
    """
    return memory is None and _waits_only(name)


@cache
def _waits_only(name: str) -> bool:
    built_in = BUILT_IN.get(name)
    if built_in is None or _sources().get(name) != frozenset({built_in}):
        return False
    return isinstance(get(name), AsyncNodeType)


def config_schema(name: str) -> dict[str, Any]:
    """JSON Schema of a type's config, for the editor and `agentflow schema`."""
    schema: dict[str, Any] = get(name).Config.model_json_schema(by_alias=True)
    return schema


def config_problems(name: str, config: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a config whose templates are not rendered yet; paths are relative to the config."""
    return config_check.config_problems(get(name), config)


@cache
def _sources() -> dict[str, frozenset[str]]:
    """Name to the places (`module:Class`) that claim it."""
    claimed: dict[str, frozenset[str]] = {}
    for point in _installed():
        claimed[point.name] = claimed.get(point.name, frozenset()) | {point.value}
    return {name: frozenset({value}) for name, value in BUILT_IN.items()} | claimed


def _installed() -> Iterable[EntryPoint]:
    return entry_points(group=GROUP)


def _load(name: str, value: str) -> NodeType[Any]:
    module, _, attribute = value.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # another package's import may raise anything
        raise NodeTypeUnusable(
            f"node type `{name}` cannot be loaded from {value}: {type(error).__name__}: {error}",
            hint="update or uninstall the package that offers it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, NodeType)):
        raise NodeTypeUnusable(f"node type `{name}`: {value} is not a subclass of agentflow.nodes.base.NodeType")
    if found.name != name:
        raise NodeTypeUnusable(f"node type `{name}`: {value} calls itself `{found.name}`")
    return found()

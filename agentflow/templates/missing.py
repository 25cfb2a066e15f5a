"""Names and keys that are not there: errors that say which, and what is there instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import StrictUndefined
from jinja2.utils import missing as NO_OBJECT  # noqa: N812 - Jinja's sentinel for "a name, not an attribute"

#: Names of the context that hold mappings, and how an entry of each is called.
SCOPES = {"params": "param", "nodes": "node", "vars": "variable", "secrets": "secret", "run": "run field"}

_ADVICE = {
    "params": "declare it under `params` of the workflow",
    "nodes": "a template sees the nodes upstream of its own",
    "vars": "set it with `agentflow variables set`",
    "secrets": "set it with `agentflow secrets set`",
    "run": "a run has id, logical_date and triggered_by",
}


class Scope(dict[str, Any]):
    """One of the mappings at the top of the context; knows its name for messages."""

    __slots__ = ("label",)

    def __init__(self, label: str, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self.label = label


class MissingName(StrictUndefined):
    """A missing name or key: any use of it raises, `is defined` and `default` work."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is NO_OBJECT:
            return missing_name(str(self._undefined_name))
        return missing_key(self._undefined_obj, self._undefined_name)


def missing_name(name: str) -> str:
    """The message for a name that no context has."""
    if name in {"item", "index"}:
        return f"`{name}` is there only in a node with `for_each`"
    if name in SCOPES:
        return f"`{name}` is not available here"
    return f"`{name}` is not defined{_closest(name, SCOPES)}; templates know {', '.join(SCOPES)}"


def missing_key(owner: Any, key: Any) -> str:
    """The message for a key that its owner does not have."""
    if isinstance(owner, Scope):
        word = SCOPES[owner.label]
        advice = _ADVICE[owner.label]
        return f"{word} `{key}` does not exist{_closest(key, owner)}; there is: {_listed(owner)} ({advice})"
    if isinstance(owner, Mapping):
        return f"there is no key `{key}`{_closest(key, owner)}; the keys are: {_listed(owner)}"
    if owner is None:
        return f"null has no `{key}` (the output of a node that did not succeed is null)"
    if isinstance(owner, (list, tuple)) and isinstance(key, int):
        return f"there is no item {key}: the list has {len(owner)}"
    return f"{_kind(owner)} has no `{key}`"


def _kind(value: Any) -> str:
    names = {str: "text", list: "a list", tuple: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def _closest(name: Any, known: Iterable[Any]) -> str:
    import difflib

    found = difflib.get_close_matches(str(name), [str(other) for other in known], n=1)
    return f", did you mean `{found[0]}`?" if found else ""


def _listed(names: Iterable[Any], limit: int = 10) -> str:
    listed = [str(name) for name in names]
    if not listed:
        return "nothing"
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(f"{name:.60}" for name in listed[:limit]) + more

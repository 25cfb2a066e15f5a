"""What an expression may give back: JSON, with the lazy things of Jinja turned into lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from jinja2 import Undefined

from agentflow.errors import TemplateError
from agentflow.templates.limits import MAX_ITEMS, check_items, check_text_size

_PLAIN = frozenset({bool, int, type(None)})
#: What JSON has only one word for.
_LISTS: tuple[type[Iterable[Any]], ...] = (
    tuple,
    Iterator,
    range,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    set,
    frozenset,
)


def as_json(value: Any) -> Any:
    """A plain JSON copy of what an expression gave; iterators, views and tuples become lists.

    Raises:
        TemplateError: It is not JSON (a method that was not called, bytes, NaN, a key that is not text).
        UndefinedError: A name in it is missing.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _dict_of(value)
    if kind is list:
        return [item if type(item) in _PLAIN else as_json(item) for item in value]
    if isinstance(value, str):
        check_text_size(len(value))
        return str(value)  # Markup becomes text
    if kind is float:
        return _finite(value)
    return _rarer(value)


def _rarer(value: Any) -> Any:
    if isinstance(value, Undefined):
        raise_undefined(value)
    if isinstance(value, Mapping):
        return _dict_of(value)
    if isinstance(value, _LISTS):
        return _list_of(value)
    raise TemplateError(_not_json(value))


def raise_undefined(value: Undefined) -> None:
    """Raise the error that names what is missing."""
    value._fail_with_undefined_error()  # noqa: SLF001 - Jinja's documented hook for filters and subclasses


def _finite(value: float) -> float:
    if math.isfinite(value):
        return value
    raise TemplateError(f"the result is {value}, which is not JSON")


def _dict_of(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        key if type(key) is str else _key(key): item if type(item) in _PLAIN else as_json(item)
        for key, item in value.items()
    }


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    raise TemplateError(f"a key of the result is {type(key).__name__} ({key!r:.40}), and JSON keys are text")


def _list_of(values: Iterable[Any]) -> list[Any]:
    items = [as_json(item) for item in islice(values, MAX_ITEMS + 1)]
    check_items(len(items))
    return items


def _not_json(value: Any) -> str:
    name = getattr(value, "__name__", "")
    if callable(value) and name:
        return f"`{name}` is a method, and no value has this name; to call it write `{name}()`"
    return f"the result is {type(value).__name__}, which is not JSON"


def text_of(value: Any) -> str:
    """Text as it is; anything else as its JSON, so that `shell_quote` and friends take every value."""
    import json

    if isinstance(value, str):
        return str(value)
    text = json.dumps(as_json(value), ensure_ascii=False)
    check_text_size(len(text))
    return text

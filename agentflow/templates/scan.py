"""Find the strings of a JSON document that are templates, without Jinja."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

#: A string without any of these is never handed to Jinja.
MARKERS = ("{{", "{%", "{#")

#: Where a value stands in a document: keys and list positions.
Path = tuple[str | int, ...]

#: The same from the end, sharing its beginning with its siblings: (place of the parent, last part).
_Link: TypeAlias = "tuple[_Link, str | int] | None"


NO_KEYS: frozenset[str] = frozenset()


def has_template(text: str) -> bool:
    """Whether Jinja would do anything to this text."""
    return "{" in text and any(marker in text for marker in MARKERS)


def iter_templates(value: Any, *, literal: frozenset[str] = frozenset()) -> Iterator[tuple[Path, str]]:
    """Every string with a template in a JSON document, with its place; document order, no recursion.

    Args:
        value: Any JSON document; keys are never templates.
        literal: Keys whose values are not looked at, inner ones with dots: `http.condition`.
    """
    stack: list[tuple[_Link, Any, frozenset[str]]] = [(None, value, literal)]
    while stack:
        link, item, spared = stack.pop()
        if isinstance(item, str):
            if has_template(item):
                yield _path(link), item
        elif isinstance(item, Mapping):
            entries = [((link, key), child, below(spared, key)) for key, child in item.items() if key not in spared]
            stack.extend(reversed(entries))
        elif isinstance(item, (list, tuple)):
            stack.extend(((link, index), item[index], NO_KEYS) for index in range(len(item) - 1, -1, -1))


def below(keys: frozenset[str], key: str) -> frozenset[str]:
    """Those of the dotted keys that lie within `key`, without it: `condition` of `http.condition`."""
    if not keys:
        return NO_KEYS
    return frozenset(inner for outer, dot, inner in (one.partition(".") for one in keys) if dot and outer == key)


def _path(link: _Link) -> Path:
    parts: list[str | int] = []
    while link:
        link, part = link
        parts.append(part)
    return tuple(reversed(parts))


def path_text(path: Path) -> str:
    """`args.page[0]`, as problems and errors print it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text

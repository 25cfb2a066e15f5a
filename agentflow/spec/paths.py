"""Places inside a document: paths as tuples, as text, and their line and column in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

#: Keys of mappings and indexes of lists, from the top of the document.
Path = tuple[str | int, ...]
#: Line and column, both from 1.
Place = tuple[int, int]

_SHOWN = 100  # characters of a key in a path's text
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def path_text(path: Path) -> str:
    """`nodes.clean.needs[0]`; keys that are no words are quoted: `config.headers['X.Y']`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif len(part) <= _SHOWN and _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{part[:_SHOWN]!r}]"
    return text


class Locator(Protocol):
    """Knows where the parts of a document stand in its file."""

    def locate(self, paths: list[tuple[Path, bool]]) -> list[Place | None]:
        """The place of each (path, whether its key is meant rather than its value), or of the nearest part around it."""
        ...


class NoPlaces:
    """For documents that did not come from a file."""

    def locate(self, paths: list[tuple[Path, bool]]) -> list[Place | None]:
        """No part has a place."""
        return [None] * len(paths)


#: A member's key (None in lists) and value, as offsets or places.
Marks = tuple[Place | None, Place]


def nearest(table: Mapping[Path, Marks], path: Path, *, of_key: bool) -> Place | None:
    """Look a path up; a part that is missing is shown at the part that should have it."""
    if path in table:
        key, value = table[path]
        return key if of_key and key is not None else value
    for length in range(len(path) - 1, -1, -1):
        if path[:length] in table:
            return table[path[:length]][1]
    return None


def member(container: Any, part: str | int) -> Any:
    """The part of a list or mapping, None when it is not there."""
    if isinstance(container, dict):
        return container.get(part)
    if isinstance(container, list) and isinstance(part, int) and 0 <= part < len(container):
        return container[part]
    return None

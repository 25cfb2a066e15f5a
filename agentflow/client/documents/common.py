"""What several kinds of answers are made of."""

from __future__ import annotations

from typing import Any, Generic, TypedDict, TypeVar

Item = TypeVar("Item")
Json = dict[str, Any]


class Page(TypedDict, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None  #: Where the next page begins; None at the end.


class Changed(TypedDict):
    """What became of an action on something that has a name."""

    name: str
    changed: bool


class Done(TypedDict):
    """What became of an action on something that has an id."""

    id: str
    changed: bool

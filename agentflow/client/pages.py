"""Lists that come page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentflow.client.documents import Page
from agentflow.client.http import Http

LARGEST = 200  #: Items that the API gives at once.


def page(http: Http, path: str, query: Mapping[str, Any], *, limit: int, cursor: str | None) -> Page[Any]:
    """A page of any size: the API is asked as often as it takes."""
    items: list[Any] = []
    while True:
        part: Page[Any] = http.get(path, {**query, "limit": min(LARGEST, limit - len(items)), "cursor": cursor})
        items += part["items"]
        cursor = part["next_cursor"]
        if cursor is None or len(items) >= limit:
            return {**part, "items": items, "next_cursor": cursor}


def each(http: Http, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Every item of a list, read as it is asked for."""
    cursor: str | None = None
    while True:
        part: Page[Any] = http.get(path, {**(query or {}), "limit": LARGEST, "cursor": cursor})
        yield from part["items"]
        cursor = part["next_cursor"]
        if cursor is None:
            return

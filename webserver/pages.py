"""Pages of lists: `?limit=&cursor=` in, `{items, next_cursor}` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from webserver.arguments import Query

Item = TypeVar("Item")

MOST = 200  #: Items of a page.


class PageQuery(Query):
    """Which part of a list."""

    limit: int = Field(25, ge=1, le=MOST, description="At most so many items")
    cursor: str | None = Field(None, max_length=1000, description="`next_cursor` of the page before")


class Answer(BaseModel):
    """Base of what the API answers; tests check that nothing undocumented is in it."""

    model_config = ConfigDict(extra="forbid")


class Page(Answer, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Where the next page begins; null at the end")


def page(items: Sequence[Any], next_cursor: str | None) -> dict[str, Any]:
    """The document of a page."""
    return {"items": list(items), "next_cursor": next_cursor}

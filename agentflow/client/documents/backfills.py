"""Backfills."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from agentflow.client.documents.common import Done, Json


class BackfillCounts(TypedDict):
    """Dates and runs of a backfill."""

    total: int
    skipped: int
    left: int
    done: int
    queued: int
    running: int
    success: int
    failed: int
    cancelled: int


#: `from` is a word of Python's.
Backfill = TypedDict(
    "Backfill",
    {
        "id": str,
        "workflow": str,
        "version": int,
        "trigger": str,
        "state": str,
        "from": str,
        "to": str,
        "reprocess": str,
        "reverse": bool,
        "max_active_runs": int,
        "params": Json,
        "counts": BackfillCounts,
        "created_at": str,
        "created_by": str,
        "finished_at": str | None,
        "paused": NotRequired[bool],
    },
)


class BackfillDate(TypedDict):
    """A date that a backfill would run, or keep."""

    logical_date: str
    run: str | None
    state: str | None
    action: str


BackfillPreview = TypedDict(
    "BackfillPreview",
    {
        "workflow": str,
        "version": int,
        "trigger": str,
        "from": str,
        "to": str,
        "count": int,
        "skipped": int,
        "runs": int,
        "items": list[BackfillDate],
        "more": int,
    },
)


class BackfillCancelled(Done):
    """A backfill that has been ended."""

    cancelled: int

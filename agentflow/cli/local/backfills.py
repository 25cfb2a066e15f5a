"""Backfills on the database."""

from __future__ import annotations

from functools import partial
from typing import Any

from agentflow import backfills
from agentflow.cli.local.group import Document, Group


class Backfills(Group):
    """Runs of the past dates of triggers."""

    def create(self, workflow: str, *, from_: str, to: str, confirmed: bool = False, **more: Any) -> Document:
        """Run the past dates of a trigger."""
        asked = backfills.Asked(from_, to, **more)
        make = partial(backfills.create_backfill, name=workflow, asked=asked, confirmed=confirmed, **self._who)
        return self._session.do(make)

    def preview(self, workflow: str, *, from_: str, to: str, **more: Any) -> Document:
        """What `create` would do."""
        asked = backfills.Asked(from_, to, **more)
        look = partial(backfills.preview_backfill, name=workflow, asked=asked, **self._where)
        return self._session.do(look)

    def page(
        self, *, workflow: str | None = None, state: str | None = None, limit: int = 25, cursor: str | None = None
    ) -> Document:
        """A page of backfills."""
        find = partial(
            backfills.list_backfills, workflow=workflow, state=state, limit=limit, cursor=cursor, **self._where
        )
        items, following = self._session.do(find)
        return {"items": items, "next_cursor": following}

    def get(self, backfill_id: str) -> Document:
        """One backfill."""
        return self._session.do(partial(backfills.show_backfill, backfill_id=backfill_id, **self._where))

    def pause(self, backfill_id: str) -> Document:
        """Let it start no more runs."""
        return self._set_paused(backfill_id, paused=True)

    def unpause(self, backfill_id: str) -> Document:
        """Let it go on."""
        return self._set_paused(backfill_id, paused=False)

    def _set_paused(self, backfill_id: str, *, paused: bool) -> Document:
        change = partial(backfills.set_backfill_paused, backfill_id=backfill_id, paused=paused, **self._who)
        return self._session.do(change)

    def cancel(self, backfill_id: str, *, running: bool = False) -> Document:
        """End it."""
        change = partial(backfills.cancel_backfill, backfill_id=backfill_id, running=running, **self._who)
        return self._session.do(change)

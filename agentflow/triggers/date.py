"""Once, at one moment."""

from __future__ import annotations

from datetime import UTC, datetime

from agentflow.triggers.base import Bounds, Note, Trigger


class DateTrigger(Trigger):
    """Fires once."""

    def __init__(self, at: datetime, bounds: Bounds | None = None, *, note: Note | None = None) -> None:
        super().__init__(bounds or Bounds())
        self._at = at.astimezone(UTC).replace(tzinfo=None)
        self._note = note

    def note(self, at: datetime) -> Note | None:  # noqa: ARG002 - there is only one fire
        """How a clock change concerns the local time that was asked for."""
        return self._note

    def _fire_after(self, after: datetime) -> datetime | None:
        return self._at if self._at > after else None

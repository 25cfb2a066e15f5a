"""Every so often, on a grid that is anchored at `start`, else at the epoch: restarts never shift it.

APScheduler's IntervalTrigger counts from the previous fire in floating point; the grid here is exact, and the answer
does not depend on what fired before.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from agentflow.triggers.base import MICROSECOND, Bounds, Trigger

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC


class IntervalTrigger(Trigger):
    """Fires at `anchor + n * every`; before the start, never."""

    def __init__(self, every: timedelta, bounds: Bounds | None = None) -> None:
        super().__init__(bounds or Bounds())
        self._every = every
        start = self._bounds.start
        self._anchor = start.replace(tzinfo=None) if start is not None else _EPOCH

    def _fire_after(self, after: datetime) -> datetime | None:
        return self._anchor + ((after - self._anchor) // self._every + 1) * self._every

    def _count(self, first: datetime, last: datetime) -> int:
        before = (first - self._anchor - MICROSECOND) // self._every
        return max(0, (last - self._anchor) // self._every - before)

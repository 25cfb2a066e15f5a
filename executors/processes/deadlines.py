"""When running attempts time out. Holds ids only, and forgets those that ended, so that it stays small."""

from __future__ import annotations

import heapq
from collections.abc import Container
from typing import Final

_SLACK: Final = 1024  # ended attempts that may stay in the heap before it is rebuilt


class Deadlines:
    """A heap of (`time.monotonic()`, attempt id)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._sweep_at = _SLACK

    def add(self, when: float, attempt_id: str, still_open: Container[str]) -> None:
        """Remember one; `still_open` tells which attempts have not ended."""
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[1] in still_open]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SLACK
        heapq.heappush(self._heap, (when, attempt_id))

    @property
    def first(self) -> float | None:
        """The earliest deadline."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[str]:
        """Attempts whose deadline has come, ended ones among them."""
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[1])
        return due

"""Which attempts are out, and what they take: for the loop's thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from scheduler.shares import Place


class Live(Collection[str]):
    """Attempts that were handed to executors and whose end is not stored yet."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._out: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many are out."""
        return len(self._places)

    def __contains__(self, attempt_id: object) -> bool:
        """Whether this one is out."""
        return attempt_id in self._places

    def __iter__(self) -> Iterator[str]:
        """Their ids."""
        return iter(self._places)

    @property
    def out(self) -> Mapping[str, int]:
        """How many have a process of their own, by executor."""
        return self._out

    def executor_of(self, attempt_id: str) -> str:
        """The executor that has it."""
        return self._places[attempt_id][0]

    def add(self, places: Mapping[str, Place]) -> None:
        """These are out now."""
        self._places.update(places)
        for executor, in_lane in places.values():
            self._out[executor] += not in_lane

    def discard(self, attempt_id: str) -> None:
        """This one has ended."""
        place = self._places.pop(attempt_id, None)
        if place is not None and not place[1]:
            self._out[place[0]] -= 1

    def clear(self) -> None:
        """Forget all."""
        self._places.clear()
        self._out.clear()

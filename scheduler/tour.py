"""Where the next look for groups begins, when more have something ready than one look sees: looks go round. Pure.

A look that finds nothing for the slots that are free is likely to be followed by others like it: ten thousand groups
that wait for one executor stand in the way of the one that wants another. So such a tour rests between its looks, and
leaves half of the time to what can be done.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from scheduler.shares import Place

REST = 1.0  #: Rests are so many times as long as the looks.


@dataclass(slots=True)
class Tour:
    """Of one scheduler. Times are seconds of a monotonic clock."""

    after: int = 0  #: The next look begins behind this group.
    _turn: int = 0  # the last group looked at when something was taken
    _barren: bool = False  # whether all groups from the first one to `after` were looked at, and nothing taken
    _fruitless: frozenset[Place] = field(default=frozenset())  # had free slots that the last look found nothing for
    _rest_until: float = 0.0

    def begin(self) -> None:
        """Something may have changed: look at every group once more, first at those behind the last that had a turn; a
        tour that is under way goes on.
        """
        self._barren = False
        if not self._fruitless:
            self.after = self._turn

    def halt(self) -> None:
        """No slot is free: there is nothing to look for until something changes."""
        self._fruitless, self._rest_until = frozenset(), 0.0

    def rests(self, free: AbstractSet[Place], now: float) -> bool:
        """Whether to look later: what has free slots had them at the last look too, in vain."""
        return now < self._rest_until and free <= self._fruitless

    def due_in(self, now: float) -> float | None:
        """Seconds until a tour that rests goes on; None when none does."""
        return max(0.0, self._rest_until - now) if self._fruitless else None

    def looked(self, end: int | None, free: AbstractSet[Place], *, took: bool, seconds: float, now: float) -> bool:
        """Note a look.

        Args:
            end: The last group that was looked at; None: there are no others behind it.
            free: Where slots were free.
            took: Whether anything was taken.
            seconds: What it took.
            now: When it was over.

        Returns:
            Whether there are others to be looked at.
        """
        began, self.after = self.after, end or 0
        whole = began == 0 and end is None
        if took:
            self._turn = self.after
        self._barren = not took and (began == 0 or self._barren)
        more = not whole and (end is not None or not self._barren)
        in_vain = more and not took
        self._fruitless = frozenset(free) if in_vain else frozenset()
        self._rest_until = now + REST * seconds if in_vain else 0.0
        return more

"""Groups that wait while there are more of them than slots: claims take from these before they look for groups again.

To find the groups with something ready costs some twenty microseconds each, again and again while thousands of runs
wait for four slots. What a look found is good for the next claims as well: they lock and count as ever, and take what is
still there. Only who came in between waits for the next look.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentflow.db.queries.claims import Group
from scheduler.shares import Slots, place_of

FRESH = 0.25  #: Seconds that a look is good for: so long at most a newcomer of higher priority is overlooked.
FEW = 32  #: So many groups are quickly found anew.
PER_SLOT = 4  #: Groups that a claim looks at for each free slot,
LEAST = 16  #: and at least.


class Crowd:
    """What a look found and the slots did not take, in order. For the loop's thread."""

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._until = 0.0
        self._vain = False  # whether the last claim of these took nothing

    def begin(self) -> None:
        """Something may have changed: slots of a pool are free, say."""
        self._vain = False

    def note(self, waiting: Sequence[Group], taken: Collection[int], now: float) -> None:
        """A look found these, which may have more than could be taken; `taken` are those that had a turn."""
        self._groups = _in_turn(waiting, taken) if len(waiting) > FEW else []
        self._until = now + FRESH

    def pick(self, slots: Slots, default_executor: str, now: float) -> list[int]:
        """The groups that a claim should look at; none: it must look for them.

        Backfills and others are picked alike, for they share what is free.
        """
        if now >= self._until:
            self._groups = []
        if self._vain:
            return []
        most = max(LEAST, PER_SLOT * sum(slots.values()))
        fitting = [group for group in self._groups if slots.get(place_of(group, slots, default_executor), 0) > 0]
        others = [group.id for group in fitting if not group.backfill][:most]
        return others + [group.id for group in fitting if group.backfill][:most]

    def served(self, picked: Collection[int], found: Sequence[Group], taken: Collection[int]) -> None:
        """Note what a claim did with what it picked.

        Args:
            picked: What `pick` said.
            found: Those of them that had something ready, as they are now.
            taken: Those that had their turn. None: a pool is full, say; until something changes, looks may find others.
        """
        self._vain = not taken
        others = [group for group in self._groups if group.id not in picked]
        self._groups = _in_turn([*found, *others], taken)


def _in_turn(groups: Sequence[Group], taken: Collection[int]) -> list[Group]:
    """The highest priority first; among equals those that had a turn come last."""
    turned = [group for group in groups if group.id in taken]
    return sorted([*(group for group in groups if group.id not in taken), *turned], key=lambda group: -group.priority)

"""How backfills and all other runs share what is free, so that neither starves the other (ENGINE 4). Pure.

While both wait for the same executor or pool, a backfill gets at most half of what is free, and nothing once it holds
half of what there is: its long nodes must not pile up. An odd slot goes to the one and the other in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agentflow.db.queries.claims import Candidate, Group, Holding

Place = tuple[str, bool]  #: An executor, and whether its I/O lanes are meant or all else that it runs.
Slots = Mapping[Place, int]  #: Free ones; an executor without I/O lanes has no entry for them.
Resource = Place | int  #: A place or a pool.


def place_of(group: Group, slots: Slots, default_executor: str) -> Place:
    """Where the nodes of a group would run."""
    return _place(group.executor or default_executor, slots, io=group.io)


def _place(executor: str, slots: Slots, *, io: bool) -> Place:
    return executor, io and (executor, True) in slots


def backfill_share(free: int, *, held: int, held_by_others: int, odd: int) -> int:
    """How much of `free` backfills may take while others wait for it too; `odd` is 1 when it is their turn."""
    half = (free + odd) // 2
    fair = (held + held_by_others + free + odd) // 2 - held
    return max(0, min(half, fair))


@dataclass(slots=True)
class Shares:
    """What is left for each kind of each resource that both wait for; nothing is said about the others."""

    left: dict[tuple[Resource, bool], int] = field(default_factory=dict)  #: By resource and whether of a backfill.

    def allow(self, group: Group, place: Place) -> bool:
        """Whether a node of this group is within its kind's share."""
        return all(self.left.get((resource, group.backfill), 1) > 0 for resource in (place, group.pool_id))

    def take(self, group: Group, place: Place, pool_slots: int) -> None:
        """A node of this group has been chosen. A large one may overdraw its share of a pool: it would never fit."""
        for resource, amount in ((place, 1), (group.pool_id, pool_slots)):
            if (resource, group.backfill) in self.left:
                self.left[resource, group.backfill] -= amount


def divide(
    candidates: Sequence[Candidate],
    groups: Mapping[int, Group],
    pool_free: Mapping[int, int],
    slots: Slots,
    holdings: Iterable[Holding],
    default_executor: str,
    *,
    odd: int,
) -> Shares:
    """The shares of this claim."""
    wanted: dict[tuple[Resource, bool], int] = defaultdict(int)
    for candidate in candidates:
        group = groups[candidate.group_id]
        wanted[place_of(group, slots, default_executor), group.backfill] += 1
        wanted[group.pool_id, group.backfill] += candidate.pool_slots
    contended = [resource for resource, backfill in wanted if backfill and (resource, False) in wanted]
    held = _held(holdings, slots) if contended else {}
    shares = Shares()
    for resource in contended:
        free = pool_free.get(resource, 0) if isinstance(resource, int) else slots.get(resource, 0)
        most = backfill_share(
            free, held=held.get((resource, True), 0), held_by_others=held.get((resource, False), 0), odd=odd
        )
        shares.left[resource, True] = most
        shares.left[resource, False] = free - min(most, wanted[resource, True])
    return shares


def _held(holdings: Iterable[Holding], slots: Slots) -> dict[tuple[Resource, bool], int]:
    held: dict[tuple[Resource, bool], int] = defaultdict(int)
    for one in holdings:
        held[_place(one.executor, slots, io=one.io), one.backfill] += one.nodes
        held[one.pool_id, one.backfill] += one.slots
    return held

"""Which candidates to claim: pure (ENGINE 4).

Highest priority first; workflows of equal priority take turns, so that one with a thousand ready nodes does not keep
another waiting. A node run that does not fit its pool's free slots blocks the rest of that pool: smaller ones must not
overtake it for ever. Backfills and all other runs share what is free (scheduler/shares.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from agentflow.db.queries.claims import Candidate, Group, Usage
from scheduler.shares import Slots, divide, place_of

MAX_CANDIDATES = 2000  #: Rows locked by one claim, over all groups.
#: And of those no more than so many for each free slot, but one of each group: a claim locks what it looks at.
CANDIDATES_PER_SLOT = 8


def together(
    groups: Iterable[Group],
    usage: Usage,
    slots: Slots,
    default_executor: str,
    *,
    out: Mapping[str, int],
    parallelism: int,
) -> int | None:
    """How many more processes all executors may take between them; None while only one of them has work.

    That one keeps to the scheduler's parallelism by itself, and may besides take a short queue that hides the way from
    here to there. As soon as another one wants a process too, nothing is queued any more, and they share the slots.

    Args:
        groups: What is ready.
        usage: Pools and workflows may hold it back: then it does not want a process now.
        slots: Says which nodes run in I/O lanes.
        default_executor: Of groups that name none.
        out: Attempts with a process of their own, by executor.
        parallelism: Of the scheduler.
    """
    working = {executor for executor, count in out.items() if count > 0}
    for group in groups:
        executor, in_lane = place_of(group, slots, default_executor)
        if not in_lane and _allowed(group, usage) > 0:
            working.add(executor)
    return None if len(working) < 2 else max(0, parallelism - sum(out.values()))


def _allowed(group: Group, usage: Usage) -> int:
    """How many of a group its pool and its workflow let start."""
    if group.workflow_id in usage.busy:
        return 0
    most = usage.pool_free.get(group.pool_id, 0)
    if group.concurrency is not None:
        most = min(most, group.concurrency - usage.workflow_running.get(group.workflow_id, 0))
    return most


def limits(
    groups: Sequence[Group], usage: Usage, slots: Slots, default_executor: str, *, shared: int | None = None
) -> dict[int, int]:
    """How many candidates to take from each group: no more than could be started now; `shared` is what `together` says."""
    found: dict[int, int] = {}
    taken = 0
    for group in groups:
        place = place_of(group, slots, default_executor)
        most = min(slots.get(place, 0), _allowed(group, usage))
        if shared is not None and not place[1]:
            most = min(most, shared)
        if most > 0:
            found[group.id] = most
            taken += most
    bound = min(MAX_CANDIDATES, max(len(found), CANDIDATES_PER_SLOT * sum(slots.values())))
    if taken > bound:
        share = max(1, bound // len(found))
        found = {group: min(most, share) for group, most in list(found.items())[:bound]}
    return found


def choose(
    candidates: Iterable[Candidate],
    groups: Mapping[int, Group],
    usage: Usage,
    slots: Slots,
    default_executor: str,
    *,
    odd: int = 0,
    shared: int | None = None,
) -> list[Candidate]:
    """The candidates to claim, in the order in which they should start.

    Args:
        candidates: Locked by this transaction.
        groups: Theirs, by id.
        usage: Of pools and workflows.
        slots: Free ones of the executors.
        default_executor: Of nodes that name none.
        odd: 1 when an odd slot is for a backfill, 0 when it is for others.
        shared: What `together` says.
    """
    ordered = _in_turn(candidates, groups)
    if shared is not None:
        slots = {place: count if place[1] else min(count, shared) for place, count in slots.items()}
    room = _Room(groups, usage, slots, default_executor, shared)
    shares = divide(ordered, groups, usage.pool_free, slots, usage.holdings, default_executor, odd=odd)
    chosen, over = [], []
    for candidate in ordered:
        group = groups[candidate.group_id]
        place = place_of(group, slots, default_executor)
        if not shares.allow(group, place):
            over.append(candidate)
        elif room.take(candidate):
            shares.take(group, place, candidate.pool_slots)
            chosen.append(candidate)
    # What the others could not use after all, because of a limit elsewhere, is nobody's share.
    return chosen + [candidate for candidate in over if room.take(candidate)]


class _Room:
    """What is left while candidates are taken one after the other."""

    def __init__(
        self, groups: Mapping[int, Group], usage: Usage, slots: Slots, default_executor: str, shared: int | None
    ) -> None:
        self._groups = groups
        self._default = default_executor
        self._pool_free = dict(usage.pool_free)
        self._running = defaultdict(int, usage.workflow_running)
        self._slots_free = dict(slots)
        self._shared = shared
        self._blocked_pools: set[int] = set()

    def take(self, candidate: Candidate) -> bool:
        """Whether it fits; then what it needs is gone."""
        group = self._groups[candidate.group_id]
        place = place_of(group, self._slots_free, self._default)
        counted = self._shared is not None and not place[1]
        if self._slots_free.get(place, 0) < 1 or (counted and not self._shared) or group.pool_id in self._blocked_pools:
            return False
        if group.concurrency is not None and self._running[group.workflow_id] >= group.concurrency:
            return False
        # In a pool that was made smaller than a node needs, the node takes all of it: or it would block it for ever.
        needed = min(candidate.pool_slots, group.slots)
        if needed > self._pool_free.get(group.pool_id, 0):
            self._blocked_pools.add(group.pool_id)
            return False
        self._pool_free[group.pool_id] -= needed
        self._running[group.workflow_id] += 1
        self._slots_free[place] -= 1
        if self._shared is not None and counted:
            self._shared -= 1
        return True


def _in_turn(candidates: Iterable[Candidate], groups: Mapping[int, Group]) -> list[Candidate]:
    ordered = sorted(candidates, key=lambda c: (-c.priority, c.ready_at, c.run_id.int, c.node_no))
    turns: dict[tuple[int, int], int] = defaultdict(int)
    ranked = []
    for position, candidate in enumerate(ordered):
        lane = (candidate.priority, groups[candidate.group_id].workflow_id)
        ranked.append((-candidate.priority, turns[lane], position, candidate))
        turns[lane] += 1
    ranked.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in ranked]

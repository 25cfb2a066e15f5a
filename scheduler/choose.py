"""Which candidates to claim: pure (ENGINE 4).

Highest priority first; workflows of equal priority take turns, so that one with a thousand ready nodes does not keep
another waiting. A node run that does not fit its pool's free slots blocks the rest of that pool: smaller ones must not
overtake it for ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from agentflow.db.queries.claims import Candidate, Group, Usage

MAX_CANDIDATES = 2000  #: Rows locked by one claim, over all groups.

Place = tuple[str, bool]  #: An executor, and whether its I/O lanes are meant or all else that it runs.
Slots = Mapping[Place, int]  #: Free ones; an executor without I/O lanes has no entry for them.


def place_of(group: Group, slots: Slots, default_executor: str) -> Place:
    """Where the nodes of a group would run."""
    executor = group.executor or default_executor
    return executor, group.io and (executor, True) in slots


def limits(groups: Sequence[Group], usage: Usage, slots: Slots, default_executor: str) -> dict[int, int]:
    """How many candidates to take from each group: no more than could be started now."""
    found: dict[int, int] = {}
    taken = 0
    for group in groups:
        most = min(slots.get(place_of(group, slots, default_executor), 0), usage.pool_free.get(group.pool_id, 0))
        if group.concurrency is not None:
            most = min(most, group.concurrency - usage.workflow_running.get(group.workflow_id, 0))
        if most > 0:
            found[group.id] = most
            taken += most
    if taken > MAX_CANDIDATES:
        share = max(1, MAX_CANDIDATES // len(found))
        found = {group: min(most, share) for group, most in list(found.items())[:MAX_CANDIDATES]}
    return found


def choose(
    candidates: Iterable[Candidate],
    groups: Mapping[int, Group],
    usage: Usage,
    slots: Slots,
    default_executor: str,
) -> list[Candidate]:
    """The candidates to claim, in the order in which they should start."""
    pool_free = dict(usage.pool_free)
    running = defaultdict(int, usage.workflow_running)
    slots_free = dict(slots)
    blocked_pools: set[int] = set()
    chosen = []
    for candidate in _in_turn(candidates, groups):
        group = groups[candidate.group_id]
        place = place_of(group, slots, default_executor)
        if slots_free.get(place, 0) < 1 or group.pool_id in blocked_pools:
            continue
        if group.concurrency is not None and running[group.workflow_id] >= group.concurrency:
            continue
        # In a pool that was made smaller than a node needs, the node takes all of it: or it would block it for ever.
        needed = min(candidate.pool_slots, group.slots)
        if needed > pool_free.get(group.pool_id, 0):
            blocked_pools.add(group.pool_id)
            continue
        pool_free[group.pool_id] -= needed
        running[group.workflow_id] += 1
        slots_free[place] -= 1
        chosen.append(candidate)
    return chosen


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

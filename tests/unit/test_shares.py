"""How backfills and other runs share free slots: half each while both wait, and nobody starves."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.db.queries.claims import Candidate, Group, Holding, Usage
from scheduler.choose import choose
from scheduler.shares import backfill_share

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LOCAL, REMOTE = ("local", False), ("remote", False)


@pytest.mark.parametrize(
    ("free", "held", "others", "odd", "share"),
    [
        (0, 0, 0, 1, 0),
        (8, 0, 0, 0, 4),
        (7, 0, 0, 0, 3),  # the odd one in turn
        (7, 0, 0, 1, 4),
        (1, 0, 0, 0, 0),  # a pool of one: one and the other in turn
        (1, 0, 0, 1, 1),
        (4, 0, 12, 0, 2),  # half of what is free, however much the others hold
        (4, 12, 0, 0, 0),  # half of all there is, it holds more
        (4, 2, 2, 0, 2),
        (2, 4, 2, 1, 0),
        (1, 3, 4, 0, 0),
        (1, 3, 4, 1, 1),
    ],
)
def test_a_backfill_s_share_of_what_is_free(free, held, others, odd, share):
    assert backfill_share(free, held=held, held_by_others=others, odd=odd) == share


def group(number, *, backfill=False, pool=1, executor="", slots=100, concurrency=None):
    return Group(number, number, pool, executor, "default", concurrency, 0, slots, False, backfill)


LIVE, BACK = group(1), group(2, backfill=True)


def candidates(*counts, priority=(0, 0), pool_slots=1):
    """So many of group 1, so many of group 2, each older than the ones of the group after it."""
    made = []
    for number, count in enumerate(counts, start=1):
        for index in range(count):
            ready = NOW + timedelta(seconds=number * 1000 + index)
            key = uuid.UUID(int=number * 1000 + index)
            made.append(Candidate(key, 0, -1, 1, number, priority[number - 1], ready, pool_slots, 0))
    return made


def taken(found, groups, slots, *, pool_free=None, holdings=(), odd=0):
    usage = Usage(pool_free or {1: 1000, 2: 1000}, {}, holdings)
    chosen = choose(found, {g.id: g for g in groups}, usage, slots, "local", odd=odd)
    return tuple(sum(c.group_id == g.id for c in chosen) for g in groups)


@pytest.mark.parametrize(
    ("live", "back", "slots", "result"),
    [
        (10, 10, 8, (4, 4)),
        (10, 0, 8, (8, 0)),
        (0, 10, 8, (0, 8)),  # while nobody else waits, all of it
        (2, 10, 8, (2, 6)),  # what the others leave
        (10, 2, 8, (6, 2)),
    ],
)
def test_both_get_half_and_what_the_other_leaves(live, back, slots, result):
    assert taken(candidates(live, back), [LIVE, BACK], {LOCAL: slots}) == result


@pytest.mark.parametrize("priority", [(0, 9), (9, 0)])
def test_neither_starves_by_priority(priority):
    assert taken(candidates(10, 10, priority=priority), [LIVE, BACK], {LOCAL: 6}) == (3, 3)


def test_several_backfills_have_one_half_together():
    groups = [LIVE, BACK, group(3, backfill=True)]
    found = candidates(10, 10, 10, priority=(0, 0, 0))
    assert taken(found, groups, {LOCAL: 8}) == (4, 2, 2)


def test_a_pool_is_shared_as_an_executor_is():
    assert taken(candidates(10, 10), [LIVE, BACK], {LOCAL: 100}, pool_free={1: 6}) == (3, 3)
    assert [taken(candidates(10, 10), [LIVE, BACK], {LOCAL: 100}, pool_free={1: 1}, odd=odd) for odd in (0, 1)] == [
        (1, 0),
        (0, 1),
    ]


def test_where_only_one_of_them_waits_nothing_is_held_back():
    elsewhere = group(2, backfill=True, pool=2, executor="remote")
    assert taken(candidates(10, 10), [LIVE, elsewhere], {LOCAL: 4, REMOTE: 5}) == (4, 5)


def test_a_share_that_cannot_be_used_goes_to_the_other():
    limited = group(1, concurrency=1)
    assert taken(candidates(10, 10), [limited, BACK], {LOCAL: 8}) == (1, 7)


def test_a_node_larger_than_its_share_of_the_pool_runs_all_the_same():
    assert taken(candidates(0, 4, pool_slots=2), [LIVE, BACK], {LOCAL: 9}, pool_free={1: 2}) == (0, 1)
    found = [*candidates(4, 0), *candidates(0, 4, pool_slots=2)]
    assert taken(found, [LIVE, BACK], {LOCAL: 9}, pool_free={1: 3}, odd=1)[1] == 1


def test_long_nodes_of_a_backfill_do_not_pile_up():
    """Live nodes end at once, a backfill's never: it comes to hold half, and never more."""
    held = 0
    for turn in range(40):
        holdings = [Holding(1, "local", False, True, held, held)]
        held += taken(candidates(50, 50), [LIVE, BACK], {LOCAL: 8 - held}, holdings=holdings, odd=turn % 2)[1]
    assert held == 4

"""Who is looked at next while more groups wait than there are slots."""

from __future__ import annotations

import pytest

from agentflow.db.queries.claims import Group
from scheduler.crowd import FEW, FRESH, LEAST, Crowd
from scheduler.tour import REST, Tour

LOCAL, LANES, OTHER = ("local", False), ("local", True), ("subprocess", False)
MANY = range(FEW + 8)


def group(number: int, *, executor: str = "", backfill: bool = False, priority: int = 0) -> Group:
    return Group(number, number, 1, executor, "default", None, priority, 128, backfill=backfill)


@pytest.fixture
def waiting():
    waiting = Crowd()
    waiting.note([group(number) for number in MANY], (), now=0.0)
    return waiting


def pick(waiting, slots=None, now=0.1):
    return waiting.pick(slots or {LOCAL: 1}, "local", now)


def test_the_first_are_picked_in_order_and_more_for_more_slots(waiting):
    assert pick(waiting) == list(range(LEAST))
    assert pick(waiting, {LOCAL: LEAST, OTHER: 0}) == list(MANY)


def test_a_few_groups_are_looked_for_anew():
    waiting = Crowd()
    waiting.note([group(number) for number in range(FEW)], (), now=0.0)
    assert pick(waiting) == []


def test_a_look_is_good_for_a_moment(waiting):
    assert pick(waiting, now=FRESH - 0.01)
    assert pick(waiting, now=FRESH) == []
    assert pick(waiting, now=0.1) == []


def test_only_those_are_picked_that_have_a_place(waiting):
    assert pick(waiting, {LOCAL: 0, OTHER: 4}) == []
    waiting.note([group(number, executor="subprocess" if number % 2 else "") for number in MANY], (), now=0.0)
    assert pick(waiting, {LOCAL: 0, OTHER: 1}) == [number for number in MANY if number % 2][:LEAST]


def test_backfills_and_others_are_picked_alike(waiting):
    waiting.note([group(number, backfill=number < LEAST + 4) for number in MANY], (), now=0.0)
    others, backfills = range(LEAST + 4, 2 * LEAST + 4), range(LEAST)
    assert pick(waiting) == [*others, *backfills]


def test_who_had_a_turn_goes_to_the_end_and_who_has_nothing_left_goes(waiting):
    waiting.served(range(LEAST), [group(number) for number in range(2, LEAST)], taken={0, 2})
    left = [number for number in MANY if number not in {0, 1, 2}] + [2]
    assert sorted(pick(waiting, {LOCAL: 100})) == sorted(left)
    assert pick(waiting, {LOCAL: 100})[0] == 3
    assert pick(waiting, {LOCAL: 100})[-1] == 2


def test_the_highest_priority_has_turn_after_turn(waiting):
    urgent = group(0, priority=10)
    waiting.note([urgent, *(group(number) for number in MANY if number)], {0}, now=0.0)
    for _ in range(3):
        assert pick(waiting)[0] == 0
        waiting.served(range(LEAST), [urgent, *(group(number) for number in range(1, LEAST))], taken={0})
    waiting.served(range(LEAST), [group(number) for number in range(LEAST)], taken={0})  # what is left is as all others
    assert pick(waiting)[0] == 1


def test_who_had_a_turn_at_the_look_comes_last():
    waiting = Crowd()
    waiting.note([group(number) for number in MANY], {0, 1}, now=0.0)
    assert pick(waiting, {LOCAL: 100}) == [*range(2, FEW + 8), 0, 1]


def test_after_a_claim_in_vain_others_are_looked_for_until_something_changes(waiting):
    waiting.served(range(LEAST), [group(number) for number in range(LEAST)], taken=())
    assert pick(waiting) == []
    waiting.begin()
    assert pick(waiting) == list(range(LEAST))


def test_a_tour_goes_round_once():
    tour = Tour()
    tour.begin()
    assert tour.looked(300, {LOCAL}, took=True, seconds=0, now=0)
    assert tour.looked(None, {LOCAL}, took=False, seconds=0, now=0)
    assert tour.after == 0
    assert tour.looked(300, {LOCAL}, took=False, seconds=0, now=0)
    assert not tour.looked(None, {LOCAL}, took=False, seconds=0, now=0)


def test_one_look_at_everything_is_enough():
    tour = Tour()
    tour.begin()
    assert not tour.looked(None, {LOCAL}, took=False, seconds=1, now=0)
    assert tour.due_in(0) is None


def test_a_tour_begins_where_the_last_turn_was():
    tour = Tour()
    tour.looked(300, {LOCAL}, took=True, seconds=0, now=0)
    tour.looked(600, {LOCAL}, took=True, seconds=0, now=0)
    tour.after = 0
    tour.begin()
    assert tour.after == 600


@pytest.mark.parametrize(
    ("free", "now", "rests"),
    [
        ({OTHER}, 10 + REST - 0.1, True),
        ({OTHER}, 10 + REST, False),
        ({LOCAL}, 10, False),  # it was full when the look was in vain
        ({OTHER, LOCAL}, 10, False),
        (set(), 10, True),
    ],
)
def test_a_tour_in_vain_rests_for_what_it_looked_for(free, now, rests):
    tour = Tour()
    tour.looked(300, {OTHER, LANES}, took=False, seconds=1, now=10)
    assert tour.rests(free, now) is rests
    assert tour.due_in(10.5) == REST - 0.5
    assert tour.due_in(100) == 0


def test_a_tour_that_rests_goes_on_and_comes_to_all_once_more():
    tour = Tour()
    tour.looked(300, {OTHER}, took=False, seconds=1, now=0)
    tour.begin()  # something may have changed behind it
    assert tour.after == 300
    assert tour.looked(None, {OTHER}, took=False, seconds=1, now=10)
    assert tour.looked(300, {OTHER}, took=False, seconds=1, now=20)
    assert not tour.looked(None, {OTHER}, took=False, seconds=1, now=30)
    assert tour.due_in(30) is None


def test_a_tour_halts_while_there_is_no_slot_to_look_for():
    tour = Tour()
    tour.looked(300, {OTHER}, took=False, seconds=1, now=0)
    tour.halt()
    assert tour.due_in(100) is None
    assert not tour.rests({OTHER}, 0)

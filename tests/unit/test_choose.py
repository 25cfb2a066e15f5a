"""Which candidates a claim takes (ENGINE 4), as tables: priority, turns, pools, concurrency, executors."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.db.queries.claims import Candidate, Group, Usage
from scheduler import choose

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DEFAULT = "local"


def group(number, *, workflow=None, pool=1, executor="", concurrency=None, priority=0, slots=100, io=False):
    return Group(number, workflow or number, pool, executor, "default", concurrency, priority, slots, io)


def candidates(text, groups=1):
    """`a b:5 c/2` = nodes a, b of priority 5, c of 2 slots, each a second younger than the one before; `2.d`: group 2."""
    made = []
    for age, word in enumerate(text.split()):
        head, _, name = word.rpartition(".")
        name, _, slots = name.partition("/")
        name, _, priority = name.partition(":")
        made.append(
            Candidate(
                uuid.UUID(int=ord(name)),
                0,
                -1,
                1,
                int(head or groups),
                int(priority or 0),
                NOW + timedelta(seconds=age),
                int(slots or 1),
                0,
            )
        )
    return made


def chosen(text, groups, *, free, running=None, slots):
    usage = Usage(free, running or {})
    found = choose.choose(candidates(text), {g.id: g for g in groups}, usage, slots, DEFAULT)
    return "".join(chr(candidate.run_id.int) for candidate in found)


@pytest.mark.parametrize(
    ("text", "slots", "taken"),
    [
        ("a b c", 9, "abc"),
        ("a b c", 2, "ab"),  # the oldest first
        ("a b:1 c:-1", 9, "bac"),  # priority before age
        ("a b:1 c:2", 1, "c"),
        ("a", 0, ""),
        ("", 9, ""),
    ],
)
def test_priority_then_age_up_to_the_executors_slots(text, slots, taken):
    assert chosen(text, [group(1)], free={1: 100}, slots={("local", False): slots}) == taken


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("1.a 1.b 1.c 1.d 2.x 2.y", "axby"),  # they take turns
        ("1.a 1.b 1.c 2.x:1 2.y:1", "xyab"),  # a higher priority does not
        ("2.x 1.a 1.b 1.c 1.d", "xabc"),
        ("1.a 1.b:1 2.x 2.y:1", "byax"),  # turns within each priority
    ],
)
def test_workflows_of_equal_priority_take_turns(text, taken):
    assert chosen(text, [group(1), group(2)], free={1: 100}, slots={("local", False): 4}) == taken


def test_groups_of_one_workflow_share_its_turn():
    groups = [group(1, workflow=7, pool=1), group(2, workflow=7, pool=2), group(3, workflow=8)]
    assert chosen("1.a 2.b 1.c 3.x 3.y", groups, free={1: 9, 2: 9}, slots={("local", False): 4}) == "axby"


@pytest.mark.parametrize(
    ("text", "free", "taken"),
    [
        ("a b c", 2, "ab"),
        ("a/2 b", 2, "a"),
        ("a/3 b c", 2, ""),  # nobody overtakes a node that waits for slots
        ("a b/2 c", 2, "a"),
        ("a b:1/3 c", 2, ""),
        ("a", 0, ""),
        ("a", -3, ""),  # the pool was made smaller
    ],
)
def test_a_pools_slots_and_no_overtaking(text, free, taken):
    assert chosen(text, [group(1)], free={1: free}, slots={("local", False): 9}) == taken


def test_a_blocked_pool_blocks_no_other():
    groups = [group(1, pool=1), group(2, pool=2)]
    assert chosen("1.a/3 1.b 2.x 2.y", groups, free={1: 2, 2: 2}, slots={("local", False): 9}) == "xy"


@pytest.mark.parametrize(("free", "taken"), [(2, "a"), (1, "")])
def test_a_node_larger_than_its_pool_waits_for_all_of_it(free, taken):
    assert chosen("a/5 b", [group(1, slots=2)], free={1: free}, slots={("local", False): 9}) == taken


def test_concurrency_counts_what_runs_and_what_is_taken_now():
    groups = [group(1, workflow=7, concurrency=3), group(2, workflow=7, concurrency=3), group(3)]
    taken = chosen("1.a 2.b 1.c 3.x", groups, free={1: 9}, running={7: 1}, slots={("local", False): 9})
    assert sorted(taken) == ["a", "b", "x"]


def test_a_node_that_waits_for_its_workflow_or_executor_blocks_no_pool():
    groups = [group(1, concurrency=1), group(2), group(3, executor="other")]
    assert chosen("1.a/9 2.b", groups, free={1: 5}, running={1: 1}, slots={("local", False): 9}) == "b"
    assert chosen("3.a/9 2.b", groups, free={1: 5}, slots={("local", False): 9, ("other", False): 0}) == "b"


def test_each_executor_has_slots_of_its_own():
    groups = [group(1), group(2, executor="other")]
    assert sorted(chosen("1.a 1.b 2.x 2.y", groups, free={1: 9}, slots={("local", False): 1, ("other", False): 1})) == [
        "a",
        "x",
    ]


def test_nodes_that_only_wait_take_slots_of_io_lanes_and_leave_those_of_processes_alone():
    slots = {("local", False): 1, ("local", True): 2}
    assert chosen("1.a 1.b 2.x 2.y 2.z", [group(1), group(2, io=True)], free={1: 9}, slots=slots) == "axy"


def test_without_io_lanes_they_take_slots_like_all_others():
    assert chosen("1.a 2.x 2.y", [group(1), group(2, io=True)], free={1: 9}, slots={("local", False): 2}) == "ax"


def test_a_pool_limits_what_waits_too():
    slots = {("local", False): 9, ("local", True): 9}
    assert chosen("2.x 2.y 2.z", [group(2, io=True)], free={1: 2}, slots=slots) == "xy"


@pytest.mark.parametrize(
    ("groups", "free", "running", "slots", "most"),
    [
        ([group(1)], {1: 5}, {}, {("local", False): 9}, {1: 5}),
        ([group(1)], {1: 50}, {}, {("local", False): 9}, {1: 9}),
        ([group(1), group(2, io=True)], {1: 50}, {}, {("local", False): 0, ("local", True): 7}, {2: 7}),
        ([group(1, concurrency=4)], {1: 50}, {1: 1}, {("local", False): 9}, {1: 3}),
        ([group(1)], {1: 0}, {}, {("local", False): 9}, {}),
        ([group(1)], {1: -2}, {}, {("local", False): 9}, {}),
        ([group(1, executor="gone")], {1: 5}, {}, {("local", False): 9}, {}),
        ([group(1, concurrency=1), group(2)], {1: 5}, {1: 1}, {("local", False): 2}, {2: 2}),
    ],
)
def test_no_more_candidates_are_locked_than_could_start(groups, free, running, slots, most):
    assert choose.limits(groups, Usage(free, running), slots, DEFAULT) == most


def test_many_groups_share_the_bound_on_locked_rows():
    groups = [group(number) for number in range(1, 5001)]
    most = choose.limits(groups, Usage({1: 10_000}, {}), {("local", False): 10_000}, DEFAULT)
    assert sum(most.values()) <= choose.MAX_CANDIDATES
    assert next(iter(most)) == 1  # groups come with the highest priority first
    few = choose.limits(groups[:3], Usage({1: 10_000}, {}), {("local", False): 10_000}, DEFAULT)
    assert set(few) == {1, 2, 3}
    assert choose.MAX_CANDIDATES - 3 < sum(few.values()) <= choose.MAX_CANDIDATES


def together(groups, *, out, free=None, running=None, slots=None):
    usage = Usage(free or {1: 100}, running or {})
    places = slots or {("local", False): 4, ("subprocess", False): 4}
    return choose.together(groups, usage, places, DEFAULT, out=out, parallelism=4)


OTHER = group(2, executor="subprocess")


@pytest.mark.parametrize(
    ("groups", "out", "shared"),
    [
        ([group(1)], {}, None),  # one executor keeps to the parallelism by itself, and may look ahead
        ([group(1)], {"local": 40}, None),
        ([group(1)], {"local": 3, "subprocess": 0}, None),
        ([group(1), OTHER], {}, 4),
        ([group(1), OTHER], {"local": 40}, 0),  # another one waits: nothing is queued ahead of it any more
        ([OTHER], {"local": 1}, 3),
        ([group(1)], {"local": 1, "subprocess": 2}, 1),
        ([], {"local": 3, "subprocess": 3}, 0),
    ],
)
def test_executors_that_have_work_share_the_parallelism(groups, out, shared):
    assert together(groups, out=out) == shared


def test_what_its_pool_its_workflow_or_a_lane_keeps_from_a_process_wants_none():
    full = group(2, pool=2, executor="subprocess")
    assert together([full], out={"local": 1}, free={1: 100, 2: 0}) is None
    busy = group(2, executor="subprocess", concurrency=1)
    assert together([busy], out={"local": 1}, running={2: 1}) is None
    waiting = group(2, executor="subprocess", io=True)
    slots = {("local", False): 4, ("subprocess", False): 4, ("subprocess", True): 9}
    assert together([waiting], out={"local": 1}, slots=slots) is None


def test_shared_slots_go_to_both_in_turn_and_leave_lanes_alone():
    groups = [group(1), group(2, executor="subprocess"), group(3, io=True)]
    slots = {("local", False): 9, ("subprocess", False): 9, ("local", True): 9}
    usage = Usage({1: 100}, {})
    text = "1.a 1.b 1.c 2.x 2.y 3.p 3.q"
    found = choose.choose(candidates(text), {g.id: g for g in groups}, usage, slots, DEFAULT, shared=3)
    assert sorted(chr(candidate.run_id.int) for candidate in found) == ["a", "b", "p", "q", "x"]
    assert choose.limits(groups, usage, slots, DEFAULT, shared=3) == {1: 3, 2: 3, 3: 9}

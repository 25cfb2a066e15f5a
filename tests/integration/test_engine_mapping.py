"""Mapped nodes (`for_each`): one node run per item, one summary for everybody else."""

from __future__ import annotations

import uuid

import pytest

from executors.stub import fail, lose, skip, succeed
from tests.engine_kit import branch


def mapped(items, *needs, **keys):
    return {"for_each": items, "needs": list(needs), **keys}


def states_of(kit, run, node):
    """The summary's state, then those of the indexes."""
    found = kit.nodes(run)
    indexes = [value["state"] for key, value in found.items() if key.startswith(f"{node}[")]
    return found[node]["state"], indexes


def test_downstreams_see_the_list_of_outputs_in_index_order(kit):
    kit.stub.script("m", succeed("a"), succeed("b"), succeed("c"))
    after = {"needs": ["m"], "when": "{{ nodes.m.output == ['a', 'b', 'c'] }}"}
    kit.apply({"m": mapped([10, 20, 30], max_parallel=1), "after": after})
    run = kit.run()
    assert kit.state(run) == "success"
    assert states_of(kit, run, "m") == ("success", ["success"] * 3)
    assert kit.states(run)["after"] == "success"
    kit.check_books()


def test_each_index_is_given_its_item_and_its_number(kit):
    kit.apply({"m": mapped(["x", {"deep": [1]}, None], config={"output": "{{ [index, item] }}"})})
    run = kit.run()
    given = [(w.map_index, w.context["index"], w.context["item"]) for w in kit.stub.submitted]
    assert sorted(given) == [(0, 0, "x"), (1, 1, {"deep": [1]}), (2, 2, None)]
    assert kit.state(run) == "success"


#: What the upstream gave -> state of the mapped node, kind of its error.
LISTS = [
    ([1, 2], "success", None),
    ([], "skipped", None),
    ({"a": 1}, "failed", "MapOverNoList"),
    ("text", "failed", "MapOverNoList"),
    (None, "failed", "MapOverNoList"),
    (7, "failed", "MapOverNoList"),
    (list(range(10_001)), "failed", "MapTooLarge"),
]


@pytest.mark.parametrize(("given", "state", "kind"), LISTS, ids=lambda value: str(value)[:12])
def test_what_a_node_may_be_mapped_over(kit, given, state, kind):
    kit.stub.script("list", succeed(given))
    kit.apply({"list": {}, "m": mapped("{{ nodes.list.output }}", "list", retries=3)})
    run = kit.run()
    node = kit.nodes(run)["m"]
    assert node["state"] == state
    assert (node["error"] or {}).get("type") == kind
    kit.check_books()


#: How the indexes end -> the summary's state.
ENDS = [
    ([succeed(1), succeed(2)], "success"),
    ([succeed(1), skip()], "success"),
    ([skip(), skip()], "skipped"),
    ([succeed(1), fail()], "failed"),
    ([skip(), fail()], "failed"),
]


@pytest.mark.parametrize(("ends", "state"), ENDS, ids=lambda value: str(value)[:30])
def test_the_summary_s_state_follows_from_its_indexes(kit, ends, state):
    kit.stub.script("m", *ends)
    kit.apply({"m": mapped([1, 2]), "after": {"needs": ["m"], "trigger_rule": "all_done"}})
    run = kit.run()
    assert kit.states(run)["m"] == state
    assert kit.states(run)["after"] == "success"
    kit.check_books()


def test_a_mapped_leaf_that_fails_fails_the_run_once_all_indexes_have_ended(kit):
    kit.stub.script("m", fail(), succeed(1), succeed(1))
    kit.apply({"m": mapped([1, 2, 3])})
    run = kit.run()
    assert states_of(kit, run, "m") == ("failed", ["failed", "success", "success"])
    assert kit.state(run) == "failed"
    kit.check_books()


def test_outputs_are_null_where_an_index_did_not_succeed(kit):
    kit.stub.script("m", succeed("a"), skip())
    kit.apply(
        {"m": mapped([1, 2], max_parallel=1), "after": {"needs": ["m"], "config": {"output": "{{ nodes.m.output }}"}}}
    )
    kit.run()
    assert kit.stub.submitted[-1].context["nodes"]["m"] == {"output": ["a", None], "state": "success"}


def test_a_condition_is_asked_for_each_item(kit):
    kit.apply({"m": mapped([1, 2, 3, 4], when="{{ item % 2 == 0 }}")})
    run = kit.run()
    assert states_of(kit, run, "m") == ("success", ["skipped", "success", "skipped", "success"])
    kit.check_books()


def test_a_condition_that_breaks_fails_its_index_alone(kit):
    kit.apply({"m": mapped([1, 0, 4], when="{{ 4 / item > 0 }}")})
    run = kit.run()
    assert states_of(kit, run, "m") == ("failed", ["success", "failed", "success"])
    kit.check_books()


def test_no_more_indexes_than_max_parallel_are_under_way(kit):
    kit.stub.hold("m")
    kit.apply({"m": mapped(list(range(7)), max_parallel=2)})
    run = kit.create()
    kit.settle()
    seen = []
    while held := kit.stub.running:
        seen.append(len(held))
        kit.stub.release("m")
        kit.stub.hold("m")
        kit.settle()
    assert max(seen) == 2
    assert kit.state(run) == "success"
    kit.check_books()


def test_an_index_is_retried_alone(kit):
    kit.stub.script("m", fail(), succeed(1), succeed(2), succeed(3))
    kit.apply({"m": mapped([1, 2, 3], retries=1, retry_delay="0s")})
    run = kit.run()
    assert kit.state(run) == "success"
    tries = kit.rows("SELECT map_index, attempt FROM node_run WHERE run_id = :r ORDER BY map_index", r=uuid.UUID(run))
    assert sorted(row.attempt for row in tries) == [0, 1, 1, 2]
    kit.check_books()


def test_a_lost_index_runs_again(kit):
    kit.stub.script("m", lose(), succeed(1), succeed(2))
    kit.apply({"m": mapped([1, 2])})
    run = kit.run()
    assert kit.state(run) == "success"
    kit.check_books()


def test_mapped_over_mapped(kit):
    kit.apply(
        {
            "a": mapped([1, 2, 3], config={"output": "{{ item }}"}),
            "b": mapped("{{ nodes.a.output }}", "a", config={"output": "{{ item }}"}),
        }
    )
    kit.stub.script("a", succeed(10), succeed(20), succeed(30))
    run = kit.run()
    items = sorted(w.context["item"] for w in kit.stub.submitted if w.node == "b")
    assert items == [10, 20, 30]
    assert kit.state(run) == "success"
    kit.check_books()


def test_a_branch_leaves_a_mapped_node_out_before_it_is_expanded(kit):
    kit.apply({"b": branch("x"), "x": {"needs": ["b"]}, "m": mapped([1, 2], "b", trigger_rule="always")})
    run = kit.run()
    assert states_of(kit, run, "m") == ("skipped", [])
    kit.check_books()


def test_cancel_ends_what_waits_and_what_runs(kit):
    kit.stub.hold("m")
    kit.apply({"m": mapped([1, 2, 3], max_parallel=1), "after": {"needs": ["m"]}})
    run = kit.create()
    kit.settle()
    kit.cancel(run)
    kit.settle()
    kit.stub.release("m")
    kit.settle()
    assert kit.state(run) == "cancelled"
    assert set(kit.states(run).values()) <= {"cancelled", "success"}
    kit.check_books()


def test_the_summary_is_deferred_while_indexes_are_open_and_holds_no_slot(kit):
    kit.stub.hold("m")
    kit.apply({"m": mapped([1, 2])})
    run = kit.create()
    kit.settle()
    summary, indexes = states_of(kit, run, "m")
    assert summary == "deferred"
    assert set(indexes) == {"running"}


def test_ten_thousand_items_run(kit):
    kit.apply({"m": mapped("{{ range(10000) | list }}"), "after": {"needs": ["m"]}})
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.row("SELECT count(*) AS n FROM node_run WHERE run_id = :r", r=uuid.UUID(run)).n == 10_002
    kit.check_books()

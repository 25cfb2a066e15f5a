"""Workflows within workflows: params in, outputs out, cancel down, failure up; and `repeat`."""

from __future__ import annotations

import uuid

import pytest

from agentflow.errors import NotFound, UsageError
from agentflow.runs import show_run
from agentflow.runs.address import resolve_address
from agentflow.runs.logs import read_logs
from executors.stub import fail, succeed
from scheduler.subruns import stop_child


def calls(name, *needs, params=None, **keys):
    config = {"name": name} | ({"params": params} if params else {})
    return {"type": "workflow", "needs": list(needs), "config": config, **keys}


def child(kit, name="child", *, outputs=None, **nodes):
    kit.apply(
        nodes or {"work": {}},
        name,
        params={"n": {"type": "integer", "default": 0}},
        outputs={"result": "{{ nodes.work.output }}", "n": "{{ params.n }}"} if outputs is None else outputs,
    )


def sub_runs(kit, run):
    """(node number, index, seq, state) of the sub-runs of a run."""
    return [
        tuple(row)
        for row in kit.rows(
            "SELECT parent_node_no, parent_map_index, parent_seq, state FROM run WHERE parent_run_id = :r ORDER BY 1, 2, 3",
            r=uuid.UUID(run),
        )
    ]


def only_child(kit, run):
    return str(kit.row("SELECT id FROM run WHERE parent_run_id = :r", r=uuid.UUID(run)).id)


def test_params_go_in_and_declared_outputs_come_out(kit):
    child(kit)
    kit.stub.script("work", succeed(42))
    kit.apply({"a": {}, "sub": calls("child", "a", params={"n": "{{ nodes.a.output }}"}), "after": {"needs": ["sub"]}})
    kit.stub.script("a", succeed(7))
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.nodes(run)["sub"]["output"] == {"result": 42, "n": 7}
    assert kit.attempts(run, "sub") == [(1, "success")]
    show = kit.show(only_child(kit, run))
    assert (show["triggered_by"], show["params"], show["logical_date"]) == ("subrun", {"n": 7}, None)
    kit.check_books()


def test_a_waiting_sub_run_holds_no_slot_and_no_scheduler(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child")})
    run = kit.create()
    kit.settle()
    assert kit.states(run) == {"sub": "deferred"}
    assert kit.attempts(run, "sub") == [(1, "deferred")]
    kit.stub.release("work")
    kit.settle()
    assert kit.state(run) == "success"


def test_a_workflow_without_outputs_gives_an_empty_object(kit):
    child(kit, outputs={})
    kit.apply({"sub": calls("child")})
    assert kit.nodes(kit.run())["sub"]["output"] == {}


def test_failure_comes_up_and_names_the_node_that_failed(kit):
    child(kit)
    kit.stub.script("work", fail("no such table"))
    kit.apply({"sub": calls("child"), "after": {"needs": ["sub"]}})
    run = kit.run()
    node = kit.nodes(run)["sub"]
    assert kit.states(run) == {"sub": "failed", "after": "upstream_failed"}
    assert node["error"]["type"] == "SubRunFailed"
    assert "work: no such table" in node["error"]["message"]
    assert kit.state(run) == "failed"
    kit.check_books()


def test_a_retry_makes_a_sub_run_of_its_own(kit):
    child(kit)
    kit.stub.script("work", fail(), succeed("second"))
    kit.apply({"sub": calls("child", retries=1)})
    run = kit.create()
    assert kit.finish(run) == "success"
    assert kit.attempts(run, "sub") == [(1, "failed"), (2, "success")]
    assert sub_runs(kit, run) == [(0, -1, 0, "failed"), (0, -1, 1, "success")]
    kit.check_books()


def test_cancel_goes_down_through_every_level(kit):
    child(kit, "leaf")
    child(kit, "middle", outputs={}, work=calls("leaf"))
    kit.stub.hold("work")
    kit.apply({"sub": calls("middle")})
    run = kit.create()
    kit.settle()
    kit.cancel(run)
    kit.settle()
    assert {row.state for row in kit.rows("SELECT state FROM run")} == {"cancelled"}
    assert kit.attempts(run, "sub") == [(1, "cancelled")]
    assert kit.stub.cancelled
    kit.check_books()


def test_a_cancelled_sub_run_fails_its_node(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child")})
    run = kit.create()
    kit.settle()
    kit.cancel(only_child(kit, run))
    kit.settle()
    assert kit.state(run) == "failed"
    assert "was cancelled" in kit.nodes(run)["sub"]["error"]["message"]
    kit.check_books()


def test_a_timeout_of_the_outer_run_ends_the_inner_ones(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child")}, timeout="1h")
    run = kit.create()
    kit.settle()
    kit.let_time_pass()
    assert kit.state(run) == "failed"
    assert kit.state(only_child(kit, run)) == "cancelled"
    kit.check_books()


#: Config of the node -> type of the error, part of its message.
WRONG = [
    (calls("nobody"), "NotFound", "nobody"),
    (calls("child", params={"n": "text"}), "ParamError", "n"),
    (calls("child", params={"other": 1}), "ParamError", "other"),
    (calls("child", params={"n": "{{ 1 / 0 }}"}), "TemplateError", "division"),
    ({"type": "workflow", "config": {"name": "child", "version": 9}}, "NotFound", "version 9"),
]


def test_a_sub_run_that_takes_too_long_is_cancelled_and_fails_its_node(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child", timeout="1m"), "after": {"needs": ["sub"]}})
    run = kit.run()
    kit.pass_time(40)
    assert kit.states(run)["sub"] == "deferred"
    kit.pass_time(40)
    assert kit.states(run) == {"sub": "failed", "after": "upstream_failed"}
    error = kit.nodes(run)["sub"]["error"]
    assert (error["type"], error["message"]) == ("Timeout", "did not end within its timeout of 1m")
    assert sub_runs(kit, run) == [(0, -1, 0, "cancelled")]
    assert (kit.state(run), kit.attempts(run, "sub")) == ("failed", [(1, "failed")])
    kit.check_books()


def test_all_rounds_of_an_attempt_share_its_time_and_a_retry_has_its_own(kit):
    child(kit)
    kit.apply({"loop": calls("child", timeout="1m", retries=1, retry_delay="0s", repeat={"until": False, "max": 9})})
    kit.stub.hold("work")
    run = kit.run()
    kit.pass_time(40)
    kit.stub.release("work")
    kit.stub.hold("work")
    kit.settle()
    assert [row[2:] for row in sub_runs(kit, run)] == [(0, "success"), (1, "running")]
    kit.pass_time(40)
    assert [row[2:] for row in sub_runs(kit, run)] == [(0, "success"), (1, "cancelled"), (2, "running")]
    assert kit.attempts(run, "loop") == [(1, "failed"), (2, "deferred")]
    kit.pass_time(40)
    assert kit.states(run) == {"loop": "deferred"}
    kit.check_books()


def test_a_sub_run_that_was_stopped_for_its_time_says_so_whoever_hears_of_it_first(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child", timeout="1m")})
    run = kit.run()
    kit.sql("UPDATE node_run SET started_at = started_at - interval '2 min' WHERE state = 'deferred'")
    assert kit.call(stop_child, uuid.UUID(only_child(kit, run)))
    kit.settle()
    assert kit.nodes(run)["sub"]["error"]["type"] == "Timeout"
    kit.check_books()


def test_a_sub_run_that_ends_as_its_time_is_up_counts(kit):
    child(kit)
    kit.stub.hold("work")
    kit.apply({"sub": calls("child", timeout="1m")})
    run = kit.run()
    kit.stub.release("work", succeed(1))
    kit.tick()
    assert sub_runs(kit, run) == [(0, -1, 0, "success")]
    kit.sql("UPDATE node_run SET resume_at = clock_timestamp() WHERE state = 'deferred'")
    kit.gates.work()  # before its parent is told
    assert kit.states(run) == {"sub": "success"}
    kit.settle()
    kit.check_books()


def test_a_sub_run_that_is_cleared_after_its_time_was_kept_goes_on_within_it(kit):
    child(kit)
    kit.stub.script("work", fail(), succeed(1))
    kit.apply({"sub": calls("child", timeout="1m"), "held": {}})
    kit.stub.hold("held")
    run = kit.create()
    kit.starter.work()
    kit.gates.work()
    kit.tick()
    kit.tick()
    inner = only_child(kit, run)
    assert kit.state(inner) == "failed"
    kit.clear(inner)  # before its parent is told
    kit.stub.hold("work")
    kit.settle()
    assert kit.states(run)["sub"] == "deferred"
    kit.pass_time(70)
    assert kit.states(run)["sub"] == "failed"
    assert kit.nodes(run)["sub"]["error"]["type"] == "Timeout"
    kit.check_books()


@pytest.mark.parametrize(("node", "kind", "words"), WRONG, ids=[row[1] + row[2] for row in WRONG])
def test_a_sub_run_that_cannot_be_made_fails_the_node_at_once(kit, node, kind, words):
    child(kit)
    kit.apply({"sub": node | {"retries": 5}})
    run = kit.run()
    error = kit.nodes(run)["sub"]["error"]
    assert kit.states(run) == {"sub": "failed"}
    assert error["type"] == kind
    assert words in error["message"]
    kit.check_books()


def test_outputs_that_cannot_be_rendered_fail_the_node_and_say_where(kit):
    child(kit, outputs={"x": "{{ nodes.work.output.missing }}"})
    kit.apply({"sub": calls("child", retries=2)})
    run = kit.run()
    assert kit.state(run) == "failed"
    assert kit.nodes(run)["sub"]["error"]["message"].startswith("outputs:")


def test_a_workflow_that_runs_itself_for_ever_is_stopped_and_named(kit):
    kit.apply({"again": calls("flow")})
    run = kit.run()
    assert kit.state(run) == "failed"
    runs = kit.rows("SELECT sub_depth FROM run ORDER BY sub_depth")
    assert [row.sub_depth for row in runs] == list(range(21))
    deepest = kit.row("SELECT id FROM run WHERE sub_depth = 20").id
    assert "flow -> flow -> flow" in kit.nodes(str(deepest))["again"]["error"]["message"]
    kit.check_books()


def test_recursion_that_ends_is_allowed_and_ignores_max_active_runs(kit):
    node = calls("flow", params={"n": "{{ params.n - 1 }}"}, when="{{ params.n > 0 }}")
    kit.apply({"again": node}, params={"n": {"type": "integer", "default": 4}}, max_active_runs=1)
    run = kit.run()
    assert kit.state(run) == "success"
    assert len(kit.rows("SELECT 1 FROM run")) == 5
    kit.check_books()


def test_a_mapped_sub_run_per_item(kit):
    child(kit)
    kit.apply(
        {
            "sub": calls("child", params={"n": "{{ item }}"}, for_each=[3, 1, 2], max_parallel=2),
            "after": {"needs": ["sub"], "when": "{{ nodes.sub.output | map(attribute='n') | list == [3, 1, 2] }}"},
        }
    )
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.states(run)["after"] == "success"
    assert [row[1:3] for row in sub_runs(kit, run)] == [(0, 0), (1, 0), (2, 0)]
    kit.check_books()


def test_repeat_goes_on_until_the_output_says_so_and_sees_the_round_before(kit):
    child(kit)
    kit.stub.script("work", succeed("rough"), succeed("better"), succeed("good"), succeed("too far"))
    params = {"n": "{{ (nodes.loop.output.n if nodes.loop.output else 0) + 1 }}"}
    kit.apply(
        {"loop": calls("child", params=params, repeat={"until": "{{ nodes.loop.output.result == 'good' }}", "max": 9})}
    )
    run = kit.run()
    assert kit.nodes(run)["loop"]["output"] == {"result": "good", "n": 3}
    assert [row[2] for row in sub_runs(kit, run)] == [0, 1, 2]
    assert kit.attempts(run, "loop") == [(1, "success")]
    kit.check_books()


def test_repeat_stops_at_its_maximum_with_what_the_last_round_gave(kit):
    child(kit)
    kit.stub.script("work", succeed(1), succeed(2), succeed(3))
    kit.apply({"loop": calls("child", repeat={"until": False, "max": 2})})
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.nodes(run)["loop"]["output"]["result"] == 2
    assert len(sub_runs(kit, run)) == 2


def test_a_failed_round_ends_the_repeating(kit):
    child(kit)
    kit.stub.script("work", succeed(1), fail())
    kit.apply({"loop": calls("child", repeat={"until": False, "max": 9})})
    run = kit.run()
    assert kit.state(run) == "failed"
    assert len(sub_runs(kit, run)) == 2
    kit.check_books()


@pytest.mark.parametrize("until", ["{{ nodes.loop.output.nothing }}", "{{ 7 }}"])
def test_an_until_that_is_no_condition_fails_the_node(kit, until):
    child(kit)
    kit.apply({"loop": calls("child", repeat={"until": until, "max": 9})})
    run = kit.run()
    assert kit.nodes(run)["loop"]["error"]["message"].startswith("repeat.until:")


def test_a_sub_run_whose_scheduler_died_before_starting_it_is_started_by_another(kit, monkeypatch):
    child(kit)
    kit.apply({"sub": calls("child")})
    monkeypatch.setattr("scheduler.gates.start_locked", lambda connection, ids: None)
    run = kit.run()
    assert kit.state(only_child(kit, run)) == "queued"
    kit.sql("UPDATE run SET created_at = now() - interval '9 s'")
    kit.settle()
    assert kit.state(run) == "success"
    kit.check_books()


def test_every_node_run_has_an_address_however_deep_it_lies(kit):
    child(kit)
    outer = {"each": calls("child", params={"n": "{{ item }}"}, for_each=[5, 6])}
    kit.apply(outer, "middle", outputs={})
    kit.apply({"loop": calls("middle", repeat={"until": False, "max": 2})})
    run = kit.run()

    def at(address):
        place = kit.call(resolve_address, run, address)
        return kit.show(str(place.run_id)), place

    assert kit.nodes(run)["loop"]["sub_runs"] == [
        {"address": f"loop.sub[{number}]", "id": str(at(f"loop.sub[{number}]")[1].run_id), "state": "success"}
        for number in (0, 1)
    ]
    leaf, place = at("loop.sub[1].each[1].sub[0].work")
    assert (leaf["workflow"], leaf["params"], place.node) == ("child", {"n": 6}, "work")
    assert at("loop.sub[0].each[1]")[1].map_index == 1

    def shown(address):
        return [(one["node"], one["map_index"]) for one in kit.call(show_run, run, address)["nodes"]]

    assert kit.call(show_run, run, "loop.sub[0]")["workflow"] == "middle"
    assert shown("loop.sub[0].each") == [("each", None), ("each", 0), ("each", 1)]
    assert shown("loop.sub[0].each[1]") == [("each", 1)]
    assert shown("loop") == [("loop", None)]
    for wrong in ("loop.sub[2]", "loop[0]", "nobody", "loop.sub[0].each[2]", "loop.sub[0].each.sub[0]"):
        with pytest.raises(NotFound):
            at(wrong)


def test_each_index_of_a_mapped_repeat_has_rounds_of_its_own(kit):
    kit.apply(
        {"m": {"for_each": "{{ range(params.n) | list }}"}},
        "child",
        params={"n": {"type": "integer"}},
        outputs={"n": "{{ params.n + 1 }}", "items": "{{ nodes.m.output | length }}"},
    )
    params = {"n": "{{ nodes.each.output.n if nodes.each.output else item }}"}
    repeat = {"until": "{{ nodes.each.output.n > 2 }}", "max": 9}
    kit.apply({"each": calls("child", params=params, for_each=[1, 2], repeat=repeat), "after": {"needs": ["each"]}})
    run = kit.run()
    assert kit.state(run) == "success"
    assert kit.nodes(run)["each"]["output"] == [{"n": 3, "items": 2}] * 2
    assert [row[1:3] for row in sub_runs(kit, run)] == [(0, 0), (0, 1), (1, 0)]
    assert kit.call(resolve_address, run, "each[0].sub[1].m[1]").map_index == 1
    kit.clear(run, "each[1]", downstream=True)
    kit.settle()
    assert kit.state(run) == "success"
    assert [row[1:3] for row in sub_runs(kit, run)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    kit.check_books()


def test_logs_of_an_address_are_those_of_its_node_runs_alone(kit):
    kit.apply({"m": {"for_each": [1, 2], "config": {}}})
    run = kit.run()
    with kit.engine.begin() as connection:
        assert list(read_logs(connection, run, "m[1]")) == []
        with pytest.raises(NotFound):
            list(read_logs(connection, run, "m[2]"))
        with pytest.raises(UsageError):
            list(read_logs(connection, run, "m[x]"))

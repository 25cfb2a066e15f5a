"""Clear and mark of mapped nodes and sub-runs, previews, directions, and the newest version."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from agentflow.catalog import list_events
from agentflow.errors import Conflict, NotFound, ParamError, UsageError
from agentflow.runs import delete_run, open_runs, rerun, runs_between, set_note
from agentflow.states import RunState
from agentflow.workload import Finished, Outcome
from executors.stub import fail, succeed

DIAMOND = {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["a"]}, "d": {"needs": ["b", "c"]}}


def mapped(items, *needs, **keys):
    return {"for_each": items, "needs": list(needs), **keys}


def sub(name, **keys):
    return {"type": "workflow", "config": {"name": name}, **keys}


def total(kit, run):
    return kit.row("SELECT total_nodes FROM run WHERE id = :r", r=uuid.UUID(run)).total_nodes


# -- what is chosen ------------------------------------------------------------------------------------------------------
DIRECTIONS = [
    ({"nodes": ["b"]}, ["b"]),
    ({"nodes": ["b"], "downstream": True}, ["b", "d"]),
    ({"nodes": ["b"], "upstream": True}, ["a", "b"]),
    ({"nodes": ["b"], "upstream": True, "downstream": True}, ["a", "b", "d"]),
    ({"nodes": ["a"], "downstream": True}, ["a", "b", "c", "d"]),
    ({"nodes": None}, ["a", "b", "c", "d"]),
    ({"nodes": ["b", "c"], "only_failed": True}, []),
]


@pytest.mark.parametrize(("keys", "cleared"), DIRECTIONS)
def test_a_preview_names_what_a_clear_would_take_and_changes_nothing(kit, keys, cleared):
    kit.apply(DIAMOND)
    run = kit.run()
    keys = dict(keys)
    found = kit.clear(run, *(keys.pop("nodes") or ()), dry_run=True, **keys)
    assert (found["changed"], found["cleared"]) == (False, cleared)
    assert [node["node"] for node in found["nodes"]] == cleared
    assert kit.state(run) == "success"
    assert kit.started() == ["a", *sorted(kit.started()[1:3]), "d"]


def test_an_address_that_leads_nowhere_or_to_a_whole_sub_run_is_refused(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"m": mapped([1]), "s": sub("child")})
    run = kit.run()
    wrong = [
        ("m[1]", NotFound),
        ("x", NotFound),
        ("m[", UsageError),
        ("s.sub[0]", UsageError),
        ("s.sub[1].work", NotFound),
    ]
    for address, error in wrong:
        for act in (kit.clear, lambda *where: kit.mark(*where, "failed")):
            with pytest.raises(error):
                act(run, address)
    with pytest.raises(UsageError, match="different runs"):
        kit.clear(run, "m", "s.sub[0].work")


def test_a_node_of_a_sub_run_is_cleared_and_marked_by_its_address(kit):
    kit.apply({"work": mapped([1, 2])}, "inner")
    kit.apply({"deeper": sub("inner")}, "child")
    kit.apply({"s": sub("child")})
    run = kit.run()
    address = "s.sub[0].deeper.sub[0].work[1]"
    cleared = kit.clear(run, address)
    assert cleared["cleared"] == ["work[1]"]
    assert kit.show(cleared["id"])["workflow"] == "inner"
    kit.settle()
    assert kit.nodes(cleared["id"])["work[1]"]["attempt"] == 2
    marked = kit.mark(run, address, "failed")
    kit.settle()
    assert marked == {"id": cleared["id"], "changed": True}
    assert kit.state(cleared["id"]) == "failed"
    kit.check_books()


def test_the_runs_of_a_date_range_are_found_by_logical_date(kit):
    kit.apply({"a": {}})
    days = [kit.run(logical_date=datetime(2026, 1, day, tzinfo=UTC)) for day in (3, 1, 2)]
    kit.run()
    found = kit.call(
        runs_between, "flow", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC), workspace="default"
    )
    assert found == [days[1], days[2]]


# -- mapped nodes --------------------------------------------------------------------------------------------------------
def test_one_index_is_cleared_alone_and_its_node_waits_for_it_again(kit):
    kit.stub.script("m[1]", fail(), succeed("mended"))
    kit.apply({"m": mapped([1, 2, 3]), "after": {"needs": ["m"], "config": {"output": "{{ nodes.m.output }}"}}})
    run = kit.run()
    assert kit.states(run)["after"] == "upstream_failed"
    kit.stub.hold("m")
    assert kit.clear(run, "m[1]", downstream=True)["cleared"] == ["m[1]", "after"]
    kit.settle()
    assert kit.states(run) == {
        "m": "deferred",
        "m[0]": "success",
        "m[1]": "running",
        "m[2]": "success",
        "after": "pending",
    }
    kit.stub.release("m")
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.stub.submitted[-1].context["nodes"]["m"]["output"] == [None, "mended", None]
    attempts = kit.rows(
        "SELECT map_index, attempt FROM node_run WHERE run_id = :r AND map_index >= 0", r=uuid.UUID(run)
    )
    assert {row.map_index: row.attempt for row in attempts} == {0: 1, 1: 2, 2: 1}
    kit.check_books()


def test_only_the_failed_indexes_of_a_mapped_node_run_again(kit):
    for index in (0, 2):
        kit.stub.script(f"m[{index}]", fail(), succeed())
    kit.apply({"m": mapped([1, 2, 3, 4])})
    run = kit.run()
    assert kit.clear(run, only_failed=True)["cleared"] == ["m[0]", "m[2]"]
    kit.settle()
    assert kit.state(run) == "success"
    assert len(kit.started()) == 6
    kit.check_books()


def test_a_mapped_node_that_never_had_indexes_is_cleared_as_a_whole_with_only_failed(kit):
    kit.stub.script("list", succeed("no list"), succeed([1]))
    kit.apply({"list": {}, "m": mapped("{{ nodes.list.output }}", "list")})
    run = kit.run()
    kit.clear(run, "list")
    kit.settle()
    assert kit.clear(run, only_failed=True)["cleared"] == ["m"]
    kit.settle()
    assert kit.state(run) == "success"
    kit.check_books()


def test_a_whole_mapped_node_is_expanded_again_over_its_new_list(kit):
    kit.stub.script("list", succeed([1, 2, 3]), succeed([7]))
    kit.apply({"list": {}, "m": mapped("{{ nodes.list.output }}", "list"), "after": {"needs": ["m"]}})
    run = kit.run()
    assert total(kit, run) == 6
    kit.clear(run, "list", downstream=True)
    kit.settle()
    assert set(kit.states(run)) == {"list", "m", "m[0]", "after"}
    assert total(kit, run) == 4
    assert kit.nodes(run)["m[0]"]["attempt"] == 2  # a number is never used again
    assert kit.state(run) == "success"
    kit.check_books()


def test_cleared_indexes_keep_to_max_parallel(kit):
    kit.apply({"m": mapped([1, 2, 3, 4], max_parallel=2)})
    run = kit.run()
    kit.stub.hold("m")
    kit.clear(run, "m[0]", "m[1]", "m[2]", "m[3]")
    kit.settle()
    assert len(kit.stub.running) == 2
    kit.stub.release("m")
    kit.settle()
    assert kit.state(run) == "success"
    kit.check_books()


def test_cleared_indexes_ask_their_condition_again(kit):
    kit.apply({"m": mapped([1, 2], when="{{ item > 1 }}")})
    run = kit.run()
    kit.clear(run, "m[0]", "m[1]")
    kit.settle()
    assert kit.states(run) == {"m": "success", "m[0]": "skipped", "m[1]": "success"}
    kit.check_books()


def test_an_index_that_runs_keeps_its_node_from_being_cleared(kit):
    kit.stub.hold("m")
    kit.apply({"m": mapped([1, 2], max_parallel=1)})
    run = kit.create()
    kit.settle()
    for nodes in (["m"], ["m[0]"]):
        with pytest.raises(Conflict, match=r"m\[0\]"):
            kit.clear(run, *nodes)


def test_a_clear_by_force_stops_what_runs_and_takes_no_result_of_it(kit):
    kit.stub.hold("a")
    kit.apply({"a": {}, "beside": {}, "after": {"needs": ["a"]}})
    kit.stub.hold("beside")
    run = kit.create()
    kit.settle()
    (late,) = [workload for workload in kit.stub.running if workload.node == "a"]
    kit.clear(run, "a", force=True)
    kit.tick()
    assert kit.stub.cancelled == [late.attempt_id]  # and nobody else's
    kit.stub.release("a", succeed("new"))
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "cancelled"), (2, "success")]
    assert kit.nodes(run)["a"]["output"] == "new"
    kit.inbox.emit(Finished(late.attempt_id, late.token, Outcome.SUCCESS, None, datetime.now(UTC), '"late"', None))
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "new"
    assert [event.detail["reported"] for event in kit.events(run, "refused")] == ["success"]
    told, _ = kit.call(list_events, subject=run, action="run.cleared")
    assert told[0]["detail"]["forced"] == ["a"]
    kit.stub.release("beside")
    assert kit.finish(run) == "success"
    kit.check_books()


def test_indexes_and_sub_runs_under_way_are_cleared_by_force(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"m": mapped([1, 2]), "s": sub("child")})
    kit.stub.hold("m", "work")
    run = kit.create()
    kit.settle()
    kit.clear(run, "m[1]", "s", force=True)
    kit.settle()
    assert kit.states(run) == {"m": "deferred", "m[0]": "running", "m[1]": "running", "s": "deferred"}
    assert kit.row("SELECT state FROM run WHERE parent_seq = 0").state == "cancelled"
    kit.clear(run, "m", force=True)  # as a whole: expanded again
    kit.stub.release("m")
    kit.stub.release("work")
    kit.settle()
    assert kit.finish(run) == "success"
    assert kit.nodes(run)["m[1]"]["attempt"] == 3
    kit.check_books()


#: Index that failed is marked -> state of the node.
MARKS = [("success", "success"), ("skipped", "success"), ("failed", "failed")]


@pytest.mark.parametrize(("marked", "node"), MARKS)
def test_marking_an_index_decides_its_node_anew(kit, marked, node):
    kit.stub.script("m[1]", fail())
    kit.apply({"m": mapped([1, 2]), "after": {"needs": ["m"]}})
    run = kit.run()
    assert kit.mark(run, "m[1]", marked)["changed"] is (marked != "failed")
    kit.settle()
    assert kit.states(run)["m"] == node
    kit.check_books()


def test_marking_a_mapped_node_marks_its_open_indexes(kit):
    kit.stub.script("m", fail())
    kit.apply({"m": mapped([1, 2, 3], retries=1, retry_delay="1h"), "after": {"needs": ["m"]}})
    run = kit.create()
    kit.settle()
    assert kit.states(run)["m[0]"] == "retrying"
    kit.mark(run, "m", "success")
    kit.settle()
    assert set(kit.states(run).values()) == {"success"}
    assert kit.state(run) == "success"
    kit.check_books()


# -- sub-runs ------------------------------------------------------------------------------------------------------------
def test_clear_of_a_sub_run_s_node_makes_a_new_one(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"s": sub("child")})
    run = kit.run()
    kit.clear(run, "s")
    kit.settle()
    assert [one["address"] for one in kit.nodes(run)["s"]["sub_runs"]] == ["s.sub[0]", "s.sub[1]"]
    assert kit.attempts(run, "s") == [(1, "success"), (2, "success")]
    kit.check_books()


def test_a_sub_run_under_way_keeps_its_node_from_being_cleared_but_not_from_being_marked(kit):
    kit.apply({"work": {}}, "child")
    kit.apply({"s": sub("child")})
    kit.stub.hold("work")
    run = kit.create()
    kit.settle()
    with pytest.raises(Conflict, match="s"):
        kit.clear(run)
    kit.mark(run, "s", "success")
    kit.settle()
    assert kit.state(run) == "success"
    assert kit.row("SELECT state FROM run WHERE parent_run_id IS NOT NULL").state == "cancelled"
    assert kit.attempts(run, "s") == [(1, "cancelled")]
    kit.check_books()


# -- the newest version --------------------------------------------------------------------------------------------------
def test_a_clear_may_go_over_to_the_newest_version_of_the_same_graph(kit):
    kit.apply({"a": {"config": {"output": "old"}}, "b": {"needs": ["a"]}})
    run = kit.run()
    kit.apply({"a": {"config": {"output": "new"}, "priority": 7}, "b": {"needs": ["a"]}})
    kit.clear(run, "a")
    kit.settle()
    assert kit.nodes(run)["a"]["output"] == "old"
    kit.clear(run, "a", newest_version=True)
    kit.settle()
    assert (kit.nodes(run)["a"]["output"], kit.show(run)["version"]) == ("new", 2)
    assert kit.row("SELECT priority FROM node_run WHERE run_id = :r AND node_no = 0", r=uuid.UUID(run)).priority == 7
    kit.check_books()


@pytest.mark.parametrize(
    "nodes",
    [{"a": {}}, {"a": {}, "b": {}}, {"a": {}, "c": {"needs": ["a"]}}, {"a": {}, "b": mapped([1], "a")}],
    ids=["fewer", "edges", "names", "mapped"],
)
def test_a_version_with_another_graph_is_refused_and_nothing_is_cleared(kit, nodes):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    run = kit.run()
    kit.apply(nodes)
    with pytest.raises(Conflict, match="other nodes or edges"):
        kit.clear(run, newest_version=True)
    assert kit.state(run) == "success"


# -- many runs, rerun, delete --------------------------------------------------------------------------------------------
def test_the_open_runs_of_a_workflow_are_found_by_state(kit):
    kit.apply({"a": {}}, max_active_runs=1)
    kit.stub.hold("a")
    first, second = kit.create(), kit.create()
    kit.settle()
    both = [RunState.QUEUED, RunState.RUNNING]
    assert kit.call(open_runs, "flow", both, workspace="default") == [first, second]
    assert kit.call(open_runs, "flow", [RunState.QUEUED], workspace="default") == [second]
    with pytest.raises(NotFound, match="flaw"):
        kit.call(open_runs, "flaw", both, workspace="default")


def test_a_rerun_takes_its_own_version_or_the_newest(kit):
    kit.apply({"a": {}}, params={"n": {"type": "integer", "default": 1}})
    run = kit.run(params={"n": 5})
    kit.apply({"a": {}, "b": {}}, params={"n": {"type": "integer", "default": 1}})
    own, newest = (kit.call(rerun, run, newest_version=newest, actor="test") for newest in (False, True))
    assert [(made["version"], made["params"]) for made in (own, newest)] == [(1, {"n": 5}), (2, {"n": 5})]
    kit.apply({"a": {}}, params={"n": {"type": "integer", "maximum": 3}})
    with pytest.raises(ParamError):
        kit.call(rerun, run, newest_version=True, actor="test")


def test_delete_takes_a_run_with_its_sub_runs_and_frees_its_date(kit):
    day = datetime(2026, 1, 1, tzinfo=UTC)
    kit.apply({"work": {}}, "child")
    kit.apply({"s": sub("child")})
    kit.stub.hold("work")
    run = kit.create(logical_date=day)
    kit.settle()
    with pytest.raises(Conflict, match="has not ended"):
        kit.call(delete_run, run, actor="test")
    kit.stub.release("work")
    kit.settle()
    kit.call(delete_run, run, actor="test")
    for table in ("run", "node_run", "attempt", "output", "run_event"):
        assert kit.rows(f"SELECT 1 FROM {table}") == []
    assert kit.create(logical_date=day)
    with pytest.raises(NotFound):
        kit.call(delete_run, run, actor="test")


def test_every_action_is_in_the_audit_log_with_its_actor(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    run = kit.run()
    kit.clear(run, "a")
    kit.settle()
    kit.mark(run, "a", "failed")
    kit.call(set_note, run, "seen", actor="cli:ada")
    kit.call(rerun, run, actor="test")
    kit.settle()
    kit.call(delete_run, run, actor="cli:ada")
    told, _ = kit.call(list_events, subject=run)
    assert [event["action"] for event in told] == [
        "run.deleted",
        "run.noted",
        "node.marked",
        "run.cleared",
        "run.created",
    ]
    assert [event["actor"] for event in told[:2]] == ["cli:ada"] * 2
    noted, _ = kit.call(list_events, action="run.noted", actor="cli:ada")
    assert [event["subject"] for event in noted] == [run]
    page, cursor = kit.call(list_events, limit=2)
    following, _ = kit.call(list_events, limit=2, cursor=cursor)
    assert [len(page), len(following)] == [2, 2]
    assert page[-1] != following[0]
    with pytest.raises(UsageError):
        kit.call(list_events, cursor="x")

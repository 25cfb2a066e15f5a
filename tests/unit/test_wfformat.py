"""The benchmark helpers that turn recorded executions into workflows, check their order and keep figures."""

from __future__ import annotations

import json
import sys

import pytest


def task(name: str, parents=(), children=()) -> dict:
    return {"name": name, "id": name, "parents": list(parents), "children": list(children)}


def instance(*tasks: dict, name: str = "Small One.json") -> dict:
    return {"name": name, "schemaVersion": "1.5", "workflow": {"specification": {"tasks": list(tasks)}}}


DIAMOND = instance(
    task("join_4", ["left", "right"]), task("top", [], ["left", "right"]), task("left", ["top"]), task("right", ["top"])
)


def node_run(node: str, started: str, finished: str, **changes) -> dict:
    day = "2026-01-01T00:00:"
    run = {"node": node, "map_index": None, "state": "success"}
    return run | {"started_at": f"{day}{started}Z", "finished_at": f"{day}{finished}Z"} | changes


GOOD_ORDER = [
    node_run("top", "00.000000", "01.000000"),
    node_run("left", "01.000000", "02.000000"),
    node_run("right", "01.500000", "03.000000"),
    node_run("join_4", "03.000001", "03.000002"),
]


def test_every_task_becomes_a_noop_node_and_every_parent_an_upstream(bench):
    workflow = bench("wfformat").to_workflow(DIAMOND)
    assert workflow["name"] == "small-one-json"
    assert workflow["nodes"] == {
        "join_4": {"type": "noop", "needs": ["left", "right"]},
        "top": {"type": "noop"},
        "left": {"type": "noop", "needs": ["top"]},
        "right": {"type": "noop", "needs": ["top"]},
    }
    assert bench("wfformat").edge_count(workflow) == 4


def test_parent_that_only_its_own_children_name_counts(bench):
    workflow = bench("wfformat").to_workflow(instance(task("a", [], ["b"]), task("b")))
    assert workflow["nodes"]["b"]["needs"] == ["a"]


def test_ids_that_no_node_may_have_are_changed_without_clashes(bench):
    workflow = bench("wfformat").to_workflow(instance(task("1.x"), task("a b", ["1.x"]), task("a_b"), task("n" * 120)))
    assert list(workflow["nodes"]) == ["_1_x", "a_b", "a_b_2", "n" * 90]
    assert workflow["nodes"]["a_b"]["needs"] == ["_1_x"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "specification"),
        ({"workflow": []}, "specification"),
        (instance(), "no tasks"),
        (instance(task("a"), task("a")), "twice"),
        (instance(task("a", ["b"])), "parent 'b'"),
        (instance(task("a", [], ["b"])), "child 'b'"),
    ],
)
def test_document_that_is_no_execution_is_refused(bench, document, message):
    module = bench("wfformat")
    with pytest.raises(module.NotWfFormat, match=message):
        module.to_workflow(document)


def test_run_in_the_right_order_has_no_problems(bench):
    module = bench("wfformat")
    mapped = node_run("top", "09.000000", "09.000000", map_index=3)  # an index is not the node
    assert module.order_problems(module.to_workflow(DIAMOND), [*GOOD_ORDER, mapped]) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (node_run("right", "00.999999", "03.000000"), "right started at 2026-01-01T00:00:00.999999Z, before top"),
        (node_run("right", "01.500000", "03.000002"), "join_4 started"),
        (node_run("right", "01.500000", "03.000000", state="failed"), "right is failed"),
        (node_run("right", "01.500000", "03.000000", finished_at=None), "join_4 started"),
        (node_run("right", "01.500000", "03.000000", started_at=None), "right started at None"),
    ],
)
def test_every_break_of_the_order_is_found(bench, wrong, problem):
    module = bench("wfformat")
    runs = [wrong if run["node"] == wrong["node"] else run for run in GOOD_ORDER]
    [found] = module.order_problems(module.to_workflow(DIAMOND), runs)
    assert problem in found


def test_missing_and_unknown_nodes_are_found(bench):
    module = bench("wfformat")
    runs = [*GOOD_ORDER[:3], node_run("other", "01.000000", "02.000000")]
    problems = module.order_problems(module.to_workflow(DIAMOND), runs)
    assert problems == ["join_4 did not run", "other is not a node of the workflow"]


FAKE_AGENTFLOW = """
import json, sys
nodes = json.load(open(sys.argv[1]))["nodes"]
order = sorted(nodes, key=lambda name: len(nodes[name].get("needs", [])), reverse={reverse})
stamp = "2026-01-01T00:00:{{:02}}Z".format
runs = [
    {{"node": n, "map_index": None, "state": "success", "started_at": stamp(2 * i), "finished_at": stamp(2 * i + 1)}}
    for i, n in enumerate(order)
]
print(json.dumps({{"state": "success", "started_at": stamp(0), "finished_at": stamp(10), "nodes": runs}}))
"""


@pytest.mark.parametrize(("reverse", "kept"), [(False, True), (True, False)])
def test_file_is_run_by_the_command_line_and_checked(bench, tmp_path, reverse, kept):
    path = tmp_path / "diamond.json"
    path.write_text(json.dumps(DIAMOND))
    report = bench("_report").Report("x")
    fake = (sys.executable, "-c", FAKE_AGENTFLOW.format(reverse=reverse))
    problems = bench("wfinstances").run_file(path, report, fake)
    assert (problems == []) is kept
    assert report.figures[0].value == pytest.approx(0.4)  # 4 nodes in 10 s


def test_command_that_prints_no_run_is_an_error_with_its_words(bench):
    with pytest.raises(RuntimeError, match=r"exit 3.*no database"):
        bench("wfinstances").run_workflow(
            {}, (sys.executable, "-c", "import sys; print('no database', file=sys.stderr); sys.exit(3)")
        )


@pytest.mark.parametrize(
    ("better", "value", "reached", "share"),
    [("lower", 4, True, 0.5), ("lower", 6, False, 1 / 3), ("higher", 6, True, 3)],
)
def test_figure_is_compared_with_its_goal_and_limit(bench, better, value, reached, share):
    report = bench("_report").Report("x")
    figure = report.add("gap", value, "ms", goal=5, better=better, limit=2)
    assert figure.reached is reached
    assert figure.share_of_limit == pytest.approx(share)
    assert report.missed() == ([] if reached else [figure])


def test_report_prints_a_table_and_writes_json(bench, tmp_path, capsys):
    report = bench("_report").Report("Small")
    report.add("gap, median", 3.21, "ms", goal=5, limit=1.6, limit_of="SQL")
    report.add("fan", 1200, "node runs/s", goal=1500, better="higher")
    report.print()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("3.21 ms", "<= 5.00 ms", "reached", "1,200", "missed", "50%"))
    report.write(tmp_path / "out" / "small.json")
    written = json.loads((tmp_path / "out" / "small.json").read_text())
    assert [figure["reached"] for figure in written["figures"]] == [True, False]
    assert written["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([7], 0.95, 7), ([1, 2], 0.5, 1.5), (list(range(101)), 0.95, 95), ([3, 1, 2], 1, 3)],
)
def test_percentile_interpolates(bench, values, share, expected):
    assert bench("_report").percentile(values, share) == pytest.approx(expected)


def test_percentile_of_nothing_is_an_error(bench):
    with pytest.raises(ValueError, match="nothing was measured"):
        bench("_report").percentile([], 0.5)

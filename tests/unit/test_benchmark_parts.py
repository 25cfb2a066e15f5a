"""The benchmarks' arithmetic: gaps, pieces of a hop, marks in the table; and that the workflows they run are valid."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from agentflow.spec import parse_document


def node_run(started: str, finished: str) -> dict:
    day = "2026-01-01T00:00:"
    return {"started_at": f"{day}{started}Z", "finished_at": f"{day}{finished}Z"}


def test_gap_lasts_from_a_node_s_end_to_the_next_one_s_start(bench):
    run = {"nodes": [node_run("01.000", "01.500"), node_run("01.504", "02.000"), node_run("02.010", "03.000")]}
    assert bench("chain").gaps(run) == pytest.approx([4, 10], abs=0.001)


@pytest.mark.parametrize("build", ["chain", "fan", "independent"])
def test_measured_workflows_are_valid(bench, build):
    workflows = bench("_workflows")
    for node in (workflows.noop(), workflows.python(), workflows.fibo(10)):
        assert parse_document(getattr(workflows, build)("measured", 3, node)).name == "measured"


def test_fan_has_one_node_before_and_one_after_all_others(bench):
    nodes = bench("_workflows").fan("measured", 2, {"type": "noop"})["nodes"]
    assert {name: node.get("needs", []) for name, node in nodes.items()} == {
        "first": [],
        "n0": ["first"],
        "n1": ["first"],
        "last": ["n0", "n1"],
    }


@pytest.mark.parametrize("number", [0, 59, 99])
def test_idle_workflows_are_not_due_while_they_are_measured(bench, number):
    from agentflow.triggers import build

    now = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)
    document = bench("idle").cron_workflow(number, now)
    parse_document(document)
    due = build(document["triggers"][0]).next_fire(now)
    assert due is not None
    assert (due - now).total_seconds() >= 3600


def test_pieces_of_a_hop_add_up_to_the_gap(bench):
    hops = bench("_hops")
    hop = hops.Hop(finished=10.0, reported=10.001, submitted=10.008, started=10.010)
    calls = [hops.Call("b", 10.005, 0.002), hops.Call("a", 10.002, 0.001), hops.Call("late", 10.009, 1.0)]
    pieces = hops.split(hop, calls)
    assert [name for name, _ in pieces] == [hops.RESULT, hops.WAKE, "a", "b", hops.PYTHON, hops.START]
    assert [ms for _, ms in pieces] == pytest.approx([1, 1, 1, 2, 3, 2], abs=1e-6)


def test_hop_without_a_call_is_all_waiting(bench):
    hops = bench("_hops")
    pieces = dict(hops.split(hops.Hop(1.0, 1.001, 1.003, 1.004), []))
    assert pieces == pytest.approx({hops.RESULT: 1, hops.WAKE: 2, hops.PYTHON: 0, hops.START: 1}, abs=1e-6)


def test_summary_counts_calls_and_shares_over_all_hops(bench):
    hops = bench("_hops")
    pieces = hops.summarise([[("a", 2.0), ("a", 2.0), ("b", 4.0)], [("a", 4.0), ("c", 4.0)]])
    assert [(p.name, p.calls, p.milliseconds, p.share) for p in pieces] == [
        ("a", 1.5, 4.0, 0.5),
        ("b", 0.5, 2.0, 0.25),
        ("c", 0.5, 2.0, 0.25),
    ]
    with pytest.raises(ValueError, match="nothing was measured"):
        hops.summarise([])


def test_commits_are_stamped_on_the_figures_they_belong_to(bench):
    report = bench("_report").Report("title")
    report.add("before", 1, "ms")
    report.add("measured", 2, "ms", goal=1, limit=1, limit_of="bare SQL")
    report.stamp_commits(1, 0.7, 4.0)
    assert [figure.commit_ms for figure in report.figures] == [None, (0.7, 4.0)]
    out = io.StringIO()
    report.print(Console(file=out, width=120))
    row = next(line for line in out.getvalue().splitlines() if "measured" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")[1:]] == [
        "2.00 ms",
        "<= 1.00 ms",
        "missed",
        "1.00 ms (50%) bare SQL",
        "0.70 / 4.00",
    ]


def test_instances_come_from_a_file_or_a_folder_and_may_be_absent(bench, tmp_path):
    find = bench("wfinstances").find_files
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    assert find(tmp_path) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert find(tmp_path / "a.json") == [tmp_path / "a.json"]
    assert find(tmp_path / "gone") == find(None) == []


def test_bare_sql_gets_the_same_edges(bench):
    wfformat = bench("wfformat")
    workflow = {"nodes": {"top": {}, "left": {"needs": ["top"]}, "join": {"needs": ["top", "left"]}}}
    assert wfformat.numbered_edges(workflow) == [(0, 1), (0, 2), (1, 2)]
    assert wfformat.edge_count(workflow) == 3

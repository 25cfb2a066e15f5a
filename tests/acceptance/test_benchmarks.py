"""Every benchmark measures something, on a whole system; small, since here the figures do not matter."""

from __future__ import annotations

import json

import pytest

#: What is measured, small, and how many figures come of it.
SMALL = {
    "trigger_latency": ({"rounds": 2}, 3),
    "chain": ({"length": 3, "rounds": 1}, 4),
    "fan": ({"width": 5, "rounds": 1}, 2),
    "burst": ({"runs": 2, "width": 2}, 3),
    "processor": ({"n": 5, "count": 2}, 1),
    "waiting": ({"count": 20, "answer_after": 0.05, "rounds": 1}, 4),
    "log_flood": ({"length": 3, "rounds": 1}, 3),
    "idle": ({"workflows": 2, "settle": 0, "window": 0.2}, 5),
    "live": ({"crowd": 5, "changes": 2}, 6),
    "blocked_pool": ({"crowd": 20, "rounds": 2}, 3),
    "two_schedulers": ({"runs": 2, "width": 2, "pairs": 1}, 1),
    "same_minute": ({"workflows": 5, "window": 5.0, "at_once": True}, 2),
    "large_run": ({"nodes": 1500, "history": (20, 3), "part": 20, "pairs": 2}, 5),
    "web_latency": (
        {"history": (20, 3), "size": 5, "columns": 2, "requests": 2, "length": 3, "pairs": 1, "rate": 5},
        25,
    ),
}
FORK = {
    "name": "fork",
    "workflow": {
        "specification": {
            "tasks": [
                {"id": "top", "parents": [], "children": ["left", "right"]},
                {"id": "left", "parents": ["top"], "children": []},
                {"id": "right", "parents": ["top"], "children": []},
            ]
        }
    },
}


@pytest.mark.timeout(400)  # a dozen of them, two with schedulers of their own
def test_every_benchmark_measures(bench, tmp_path):
    file = tmp_path / "fork.json"
    file.write_text(json.dumps(FORK))
    with bench("_system").running_system() as system:
        for name, (sizes, count) in SMALL.items():
            report = bench("_report").Report(name)
            bench("_single").measured(lambda s, r, n=name, z=sizes: bench(n).measure(s, r, **z), system, report)
            assert len(report.figures) == count, name
            assert all(figure.value >= 0 and figure.commit_ms for figure in report.figures), name
        report = bench("_report").Report("instances")
        wfinstances = bench("wfinstances")
        assert wfinstances.run_files([file], report, system.url, environment=system.environment) == 0
        assert wfinstances.run_files([tmp_path / "gone"], report, system.url, environment=system.environment) == 1
        assert len(report.figures) == 1


def test_profile_accounts_for_the_whole_gap(bench):
    profile_hop = bench("profile_hop")
    with bench("_system").running_system(scheduler=False) as system:
        found = profile_hop.profile(system, length=4, rounds=1)
    assert len(found) == 3
    names = {piece.name for piece in bench("_hops").summarise(found)}
    assert "COMMIT" in names
    assert any(name.startswith("claims.") for name in names)


def test_failing_run_is_no_measurement(bench):
    system_module = bench("_system")
    with system_module.running_system() as system:
        broken = bench("_workflows").python("def main():\n    raise ValueError('no')\n")
        name = system.apply(bench("_workflows").independent("broken", 1, broken))
        with pytest.raises(system_module.BenchmarkFailed, match="ValueError"):
            system.run(name)

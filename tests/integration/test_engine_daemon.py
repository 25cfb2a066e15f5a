"""The whole scheduler with its threads and the local executor: a few runs from queue to end, and a stop in between."""

from __future__ import annotations

import pytest

from agentflow import runs
from tests.engine_kit import ACTOR
from tests.site_kit import Site, python


@pytest.fixture
def site(database_url, tmp_path):
    site = Site(database_url, tmp_path)
    yield site
    site.close()


def states(shown):
    return {node["node"]: node["state"] for node in shown["nodes"]}


def test_a_workflow_of_many_kinds_runs_to_its_end(site):
    run = site.trigger(
        {
            "name": "kinds",
            "nodes": {
                "load": python("def main():\n    return [1, 2, 3]\n"),
                "flaky": python(
                    "import os, pathlib\n"
                    "def main(path):\n"
                    "    mark = pathlib.Path(path)\n"
                    "    if not mark.exists():\n"
                    "        mark.touch()\n"
                    "        raise ValueError('first time')\n"
                    "    return 'second time'\n",
                    ["load"],
                    retries=1,
                    retry_delay="50ms",
                    config={"args": {"path": str(site.settings.home / "mark")}},
                ),
                "choose": {
                    "type": "branch",
                    "needs": ["load"],
                    "config": {
                        "cases": [{"when": "{{ nodes.load.output | sum > 5 }}", "to": ["large"]}],
                        "default": ["small"],
                    },
                },
                "large": {
                    "type": "shell",
                    "needs": ["choose"],
                    "config": {"command": "echo '{\"sum\": {{ nodes.load.output | sum }}}' > $AGENTFLOW_OUTPUT"},
                },
                "small": {"type": "noop", "needs": ["choose"]},
                "never": {"type": "noop", "needs": ["load"], "when": "{{ nodes.load.output | length > 3 }}"},
                "end": python(
                    "def main(sum, flaky):\n    return [sum, flaky]\n",
                    ["large", "small", "flaky"],
                    trigger_rule="none_failed",
                    config={
                        "args": {
                            "sum": "{{ (nodes.large.output or nodes.small.output).sum }}",
                            "flaky": "{{ nodes.flaky.output }}",
                        }
                    },
                ),
            },
        }
    )

    shown = site.end(run)

    assert shown["state"] == "success"
    assert states(shown) == {
        "load": "success",
        "flaky": "success",
        "choose": "success",
        "large": "success",
        "small": "skipped",
        "never": "skipped",
        "end": "success",
    }
    nodes = {node["node"]: node for node in shown["nodes"]}
    assert nodes["end"]["output"] == [6, "second time"]
    assert nodes["flaky"]["attempt"] == 2


def test_cancel_kills_what_runs_and_frees_the_slots(site):
    slow = {"name": "slow", "nodes": {f"n{i}": {"type": "shell", "config": {"command": "sleep 60"}} for i in range(6)}}
    run = site.trigger(slow)
    site.wait(run, lambda shown: list(states(shown).values()).count("running") == 4)
    site.do(runs.cancel_run, run, actor=ACTOR)
    assert site.end(run)["state"] == "cancelled"
    assert set(states(site.show(run)).values()) == {"cancelled"}
    quick = site.trigger({"name": "quick", "nodes": {"a": {"type": "noop"}}})
    assert site.end(quick)["state"] == "success"


def test_timeouts_of_a_node_and_of_a_run(site):
    command = {"type": "shell", "config": {"command": "sleep 60"}}
    node = site.trigger({"name": "node", "nodes": {"a": command | {"timeout": "300ms"}}})
    run = site.trigger({"name": "run", "timeout": "300ms", "nodes": {"a": command}})
    shown = site.end(node)
    assert (shown["state"], shown["nodes"][0]["error"]["type"]) == ("failed", "Timeout")
    shown = site.end(run)
    assert (shown["state"], shown["timed_out"], states(shown)) == ("failed", True, {"a": "cancelled"})


def test_a_run_goes_on_after_a_restart_of_its_scheduler(site):
    gate = site.settings.home / "gate"
    wait = f"until test -e {gate}; do sleep 0.05; done"
    run = site.trigger(
        {
            "name": "restart",
            "nodes": {
                "a": {"type": "shell", "config": {"command": wait}},
                "b": {"type": "noop", "needs": ["a"]},
            },
        }
    )
    site.wait(run, lambda shown: states(shown)["a"] == "running")
    site.daemon.stop(grace=0.2)
    assert states(site.show(run))["a"] == "ready"  # lost with its scheduler
    gate.touch()
    site.start()
    shown = site.end(run)
    assert shown["state"] == "success"
    assert [node["attempt"] for node in shown["nodes"]] == [2, 1]


@pytest.mark.parametrize(("limits", "at_once"), [({}, 12), ({"resources": {"memory": "200Mi"}}, 4)])
def test_nodes_that_wait_for_the_network_leave_the_processes_to_others(site, start_web_server, limits, at_once):
    # Given twelve nodes that ask a server which does not answer, and room for four processes
    server = start_web_server()
    node = {"type": "http", "config": {"url": server.url("silence")}, **limits}
    waiting = site.trigger({"name": "waiting", "nodes": {f"n{number}": node for number in range(12)}})
    # Then all of them wait at once; only a limit of their own memory needs a process each
    site.wait(waiting, lambda shown: list(states(shown).values()).count("running") == at_once)
    # and another node has a process at once, or waits for one
    busy = site.trigger({"name": "busy", "nodes": {"n": python("def main(): return 1")}})
    if not limits:
        assert states(site.end(busy)) == {"n": "success"}
        assert site.show(waiting)["finished_at"] is None
    site.do(runs.cancel_run, waiting, actor=ACTOR)
    assert site.end(waiting)["state"] == "cancelled"
    assert states(site.end(busy)) == {"n": "success"}

"""Which executor runs a node: the setting, the flag, the workflow, the node; and one of another package."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "plugin_package"

MIXED = """\
name: mixed
nodes:
  plain: {type: python, config: {code: "import os\\ndef main():\\n    return os.getcwd()"}}
  own: {type: python, executor: subprocess, config: {code: "import os\\ndef main():\\n    return os.environ['TMPDIR']"}}
  after: {type: shell, needs: [plain, own], executor: subprocess, config: {command: "echo {{ nodes.own.state }}"}}
"""


def executors(document):
    return {node["node"]: node["executor"] for node in document["nodes"]}


@pytest.fixture
def plugin(tmp_path):
    """The sample package as `pip install` leaves it; gives the environment in which Python finds it."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    text = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups)
    (info / "entry_points.txt").write_text(text)
    (tmp_path / "site" / "acme_executor").symlink_to(PLUGIN / "acme_executor")
    return {
        "PYTHONPATH": str(tmp_path / "site"),
        "AGENTFLOW_EXECUTORS": "local,subprocess,acme-queue",
        "AGENTFLOW_ACME_QUEUE_JOURNAL": str(tmp_path / "journal.jsonl"),
    }


def test_a_node_may_ask_for_its_own_executor(write, shell):
    said = shell("run", write("mixed.yaml", MIXED), "--json")
    assert said.code == 0, said
    document = json.loads(said.out)
    assert executors(document) == {"plain": "local", "own": "subprocess", "after": "subprocess"}
    outputs = {node["node"]: node["output"] for node in document["nodes"]}
    assert outputs["after"]["stdout"] == "success\n"
    assert not Path(outputs["own"]).exists()  # its folder went with its process


@pytest.mark.parametrize(
    ("arguments", "env", "keys", "expected"),
    [
        (["--executor", "subprocess"], {}, "", "subprocess"),
        ([], {"AGENTFLOW_EXECUTOR": "subprocess"}, "", "subprocess"),
        (["--executor", "local"], {"AGENTFLOW_EXECUTOR": "subprocess"}, "", "local"),
        ([], {}, "executor: subprocess\n", "subprocess"),
        (["--executor", "subprocess"], {}, "defaults: {executor: local}\n", "local"),
        (["--executor", "subprocess"], {"AGENTFLOW_EXECUTORS": "local"}, "", "subprocess"),
    ],
)
def test_the_nearest_choice_wins(write, shell, arguments, env, keys, expected):
    name = write("one.yaml", f"name: one\n{keys}nodes:\n  a: {{type: noop}}\n")
    said = shell("run", name, *arguments, "--json", env=env)
    assert said.code == 0, said
    assert executors(json.loads(said.out)) == {"a": expected}


def test_settings_of_the_executor_reach_its_processes(write, shell):
    limits = "import os, resource\ndef main():\n    return [os.nice(0), resource.getrlimit(resource.RLIMIT_NOFILE)[1]]"
    document = {"name": "limits", "nodes": {"a": {"type": "python", "config": {"code": limits}}}}
    env = {"AGENTFLOW_SUBPROCESS_NICE": "3", "AGENTFLOW_SUBPROCESS_MAX_OPEN_FILES": "128"}
    said = shell("run", write("limits.json", json.dumps(document)), "--executor", "subprocess", "--json", env=env)
    assert said.code == 0, said
    assert json.loads(said.out)["nodes"][0]["output"] == [os.nice(0) + 3, 128]


def test_a_user_that_cannot_be_used_is_said_before_anything_is_stored(write, shell, nothing_stored):
    name = write("one.yaml", "name: one\nnodes:\n  a: {type: noop}\n")
    with nothing_stored():
        said = shell("run", name, "--json", env={"AGENTFLOW_SUBPROCESS_USER": "no-such-user-here"})
    assert (said.code, said.error["type"]) == (2, "settings")
    assert "no-such-user-here" in said.error["detail"]


def test_an_executor_of_another_package_runs_nodes(write, shell, plugin):
    name = write("queue.yaml", "name: queue\nexecutor: acme-queue\nnodes:\n  a: {type: noop}\n  b: {type: noop}\n")
    without = shell("validate", name, "--json")
    assert without.code == 1
    assert "there is no executor `acme-queue`" in without.out
    said = shell("run", name, "--json", env=plugin)
    assert said.code == 0, said
    assert executors(json.loads(said.out)) == {"a": "acme-queue", "b": "acme-queue"}
    journal = Path(plugin["AGENTFLOW_ACME_QUEUE_JOURNAL"]).read_text().splitlines()
    assert sorted(json.loads(line)["what"] for line in journal) == ["started", "started", "success", "success"]

"""`--json`: for every command exactly one JSON document on stdout, also when something is wrong (SEMANTICS 8)."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator

import pytest
import typer

from agentflow.cli.main import app, plugins

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
RUN_KEYS = {
    "id", "workflow", "version", "state", "triggered_by", "params", "logical_date", "created_at", "started_at",
    "finished_at",
}  # fmt: skip
NODE_KEYS = {
    "node", "map_index", "state", "attempt", "executor", "ready_at", "queued_at", "started_at", "finished_at", "output",
    "error",
}  # fmt: skip


@pytest.fixture(scope="module")
def database_url(shared_engine):
    """One database for all."""
    return shared_engine.url.render_as_string(hide_password=False)


def leaves(command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command below this one, with the words that reach it."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*words, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))
#: What a command needs at least; the others need nothing.
ARGUMENTS = {
    ("run",): ["gone.yaml"], ("validate",): ["gone.yaml"], ("apply",): ["gone.yaml"], ("export",): ["gone"],
    ("next",): ["gone"], ("trigger",): ["gone"], ("logs",): ["gone"], ("workflows", "show"): ["gone"],
    ("workflows", "pause"): ["gone"], ("workflows", "unpause"): ["gone"], ("workflows", "delete"): ["gone"],
    ("runs", "show"): ["gone"], ("runs", "wait"): ["gone"], ("runs", "cancel"): ["gone"], ("runs", "clear"): ["gone"],
    ("runs", "mark"): ["gone", "a", "success"], ("runs", "rerun"): ["gone"], ("runs", "note"): ["gone", "x"],
    ("runs", "delete"): ["gone", "--yes"],
    ("backfill", "create"): ["gone", "--from", "2026-01-01", "--to", "2026-01-02"],
    ("backfill", "show"): ["gone"], ("backfill", "pause"): ["gone"], ("backfill", "unpause"): ["gone"],
    ("backfill", "cancel"): ["gone"],
    ("pools", "delete"): ["gone"], ("variables", "delete"): ["gone"], ("pools", "set"): ["9lives", "3"],
    ("variables", "set"): ["9lives", "3"],
}  # fmt: skip
SERVERS = {("standalone",), ("scheduler",), ("webserver",)}  # they stay; their documents are tested where they run


def test_every_command_of_the_contract_is_there():
    assert {words[0] for words in COMMANDS} >= {
        "standalone", "scheduler", "db", "run", "validate", "schema", "apply", "export", "workflows", "trigger", "runs",
        "logs", "next", "doctor", "config", "pools", "variables", "backfill",
    }  # fmt: skip
    assert set(plugins()) <= {words[0] for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_json_and_reports_wrong_usage_in_it(words, cli):
    options = {option for parameter in COMMANDS[words].params for option in parameter.opts}
    assert "--json" in options
    said = cli(*words, "--no-such-option", "--json")
    assert (said.code, said.err) == (2, "")
    assert said.error["type"] == "usage"
    assert said.error["hint"] == f"`agentflow {' '.join(words)} --help` shows how it is used"
    assert {"type", "title", "detail"} <= set(said.error)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words not in SERVERS], ids=" ".join)
def test_every_command_answers_with_one_document(words, cli):
    said = cli(*words, "--json", *ARGUMENTS.get(words, []))
    assert said.out.endswith("\n")
    if words in ARGUMENTS and words != ("validate",):
        assert said.code in (1, 2)
        assert said.error["detail"]
        assert said.error["type"] in {"not-found", "file-not-readable", "usage"}
    elif any(parameter.required for parameter in COMMANDS[words].params) and words not in ARGUMENTS:
        assert (said.code, said.error["type"]) == (2, "usage")  # its argument is missing
    else:
        assert said.code == (1 if words in ARGUMENTS else 0), said
        assert "error" not in said.document


@pytest.mark.parametrize("arguments", [["--json"], ["frob", "--json"], ["runs", "frob", "--json"], ["runs", "--json"]])
def test_no_such_command_is_a_document_too(arguments, cli):
    said = cli(*arguments)
    assert (said.code, said.error["type"], said.err) == (2, "usage", "")


WORKFLOW = """\
name: shapes
title: Shapes
tags: [x]
params: {who: {type: string, default: you}}
triggers:
  - {name: nightly, type: cron, cron: "30 2 * * *", timezone: Europe/Berlin}
nodes:
  b: {type: python, config: {code: "def main():\\n    print('hello')\\n    return {'n': 1}"}}
  a: {type: noop, needs: [b]}
"""


def test_validate_tells_every_file_and_every_problem(write, cli):
    write("shapes.yaml", WORKFLOW)
    write("bad.yaml", "name: bad\nnodes:\n  a: {type: nop}\n")
    said = cli("validate", "shapes.yaml", "bad.yaml", "--json")
    assert (said.code, said.err) == (1, "")
    assert said.document == {
        "valid": False,
        "files": [
            {"file": "shapes.yaml", "name": "shapes", "valid": True, "errors": []},
            {
                "file": "bad.yaml",
                "name": None,
                "valid": False,
                "errors": [
                    {
                        "line": 3,
                        "column": 13,
                        "path": "nodes.a.type",
                        "message": "there is no node type `nop`",
                        "hint": "did you mean `noop`?",
                    }
                ],
            },
        ],
    }


def test_stored_workflows_have_the_shapes_of_the_contract(write, cli):
    write("shapes.yaml", WORKFLOW)
    first, again = cli("apply", "shapes.yaml", "--json"), cli("apply", "shapes.yaml", "--json")
    item = {"name": "shapes", "version": 1}
    assert first.document == {"items": [item | {"changed": True, "created": True}]}
    assert again.document == {"items": [item | {"changed": False, "created": False}]}
    listed = cli("workflows", "list", "--json").document
    assert set(listed) == {"items", "next_cursor"}
    (workflow,) = [entry for entry in listed["items"] if entry["name"] == "shapes"]
    keys = {"name", "title", "version", "source", "paused", "tags", "next_fire", "latest_run"}
    assert set(workflow) >= keys
    assert {key: workflow[key] for key in ("title", "version", "source", "paused", "tags", "latest_run")} == {
        "title": "Shapes", "version": 1, "source": "api", "paused": False, "tags": ["x"], "latest_run": None,
    }  # fmt: skip
    assert TIME.fullmatch(workflow["next_fire"])
    assert set(cli("workflows", "show", "shapes", "--json").document) >= keys
    assert cli("workflows", "pause", "shapes", "--json").document == {"name": "shapes", "changed": True}
    assert cli("workflows", "pause", "shapes", "--json").document == {"name": "shapes", "changed": False}
    assert cli("trigger", "shapes", "--json").document["paused"] is True
    waited = cli("trigger", "shapes", "--wait", "--json")
    assert (waited.code, waited.document["state"]) == (1, "queued")


@pytest.mark.parametrize("target", ["shapes.yaml", "shapes"])
def test_next_marks_the_change_of_the_clocks(target, write, cli):
    cli("apply", write("shapes.yaml", WORKFLOW))
    for start, at, note in (
        ("2026-03-28T12:00:00Z", "2026-03-29T01:00:00.000000Z", "dst-gap"),
        ("2026-10-24T12:00:00Z", "2026-10-25T00:30:00.000000Z", "dst-overlap"),
        ("2026-11-24T12:00:00Z", "2026-11-25T01:30:00.000000Z", None),
    ):
        said = cli("next", target, "--from", start, "--count", "1", "--json")
        assert said.document == {"items": [{"at": at, "trigger": "nightly", "note": note}]}


def test_backfills_have_the_shapes_of_the_contract(write, cli):
    cli("apply", write("shapes.yaml", WORKFLOW.replace("shapes", "filled")))
    week = ["filled", "--from", "2026-03-27", "--to", "2026-03-30", "--json"]
    preview = cli("backfill", *week, "--dry-run").document
    assert (preview["count"], preview["runs"], preview["skipped"], preview["more"]) == (4, 4, 0, 0)
    assert [item["logical_date"][:16] for item in preview["items"]] == [
        "2026-03-27T01:30", "2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30",
    ]  # fmt: skip
    assert set(preview["items"][0]) == {"logical_date", "run", "state", "action"}
    made = cli("backfill", *week, "--reverse", "--max-active-runs", "3", "--reprocess", "failed", "--param", "who=me")
    assert made.code == 0, made
    backfill = made.document
    assert {key: backfill[key] for key in ("workflow", "state", "reverse", "reprocess", "max_active_runs", "params")} == {
        "workflow": "filled", "state": "running", "reverse": True, "reprocess": "failed", "max_active_runs": 3,
        "params": {"who": "me"},
    }  # fmt: skip
    assert (backfill["counts"]["total"], backfill["counts"]["left"], backfill["paused"]) == (4, 4, False)
    assert TIME.fullmatch(backfill["from"])
    assert uuid.UUID(backfill["id"]).version == 7
    again = cli("backfill", *week)
    assert (again.code, again.error["type"]) == (1, "conflict")
    listed = cli("backfill", "list", "--workflow", "filled", "--json").document
    assert [item["id"] for item in listed["items"]] == [backfill["id"]]
    assert cli("backfill", "pause", backfill["id"], "--json").document == {"id": backfill["id"], "changed": True}
    assert cli("backfill", "show", backfill["id"], "--json").document["state"] == "paused"
    assert cli("backfill", "unpause", backfill["id"], "--json").document["changed"] is True
    ended = cli("backfill", "cancel", backfill["id"], "--json").document
    assert ended == {"id": backfill["id"], "changed": True, "cancelled": 0}
    for words in (["list"], ["show", backfill["id"]], [*week[:-1], "--dry-run"]):
        assert "filled" in cli("backfill", *words).out or "runs of version" in cli("backfill", *words).out


@pytest.mark.parametrize("arguments", [[], ["--json"], ["filled"], ["filled", "--from", "2026-01-01"]])
def test_a_backfill_without_its_range_is_wrong_usage(arguments, cli):
    assert cli("backfill", *arguments).code == 2


def test_runs_and_logs_have_the_shapes_of_the_contract(write, shell):
    said = shell("run", write("shapes.yaml", WORKFLOW), "--json")
    assert said.code == 0, said.err
    run = said.document
    assert set(run) >= RUN_KEYS | {"nodes"}
    assert uuid.UUID(run["id"]).version == 7
    assert (run["workflow"], run["state"], run["triggered_by"]) == ("shapes", "success", "cli")
    assert (run["params"], run["logical_date"]) == ({"who": "you"}, None)
    assert all(TIME.fullmatch(run[key]) for key in ("created_at", "started_at", "finished_at"))
    assert [node["node"] for node in run["nodes"]] == ["b", "a"]  # in spec order
    for node in run["nodes"]:
        assert set(node) >= NODE_KEYS
        assert (node["map_index"], node["state"], node["attempt"]) == (None, "success", 1)
        assert all(TIME.fullmatch(node[key]) for key in ("ready_at", "queued_at", "started_at", "finished_at"))
    assert [node["output"] for node in run["nodes"]] == [{"n": 1}, None]
    shown = shell("runs", "show", run["id"], "--json").document
    later = {"state_counts"}  # packed a moment after the end
    assert {key: value for key, value in shown.items() if key not in later} == {
        key: value for key, value in run.items() if key not in later
    }
    lines = [json.loads(line) for line in shell("logs", run["id"], "--json").out.splitlines()]
    assert len(lines) == 1
    assert set(lines[0]) == {"node", "map_index", "attempt", "seq", "at", "stream", "level", "text"}
    assert (lines[0]["node"], lines[0]["seq"], lines[0]["stream"], lines[0]["text"]) == ("b", 1, "stdout", "hello")
    assert TIME.fullmatch(lines[0]["at"])


def test_progress_of_a_run_goes_to_stderr(write, shell):
    said = shell(
        "run", write("failing.yaml", "name: failing\nnodes:\n  a: {type: shell, config: {command: exit 3}}\n"), "--json"
    )
    assert (said.code, said.document["state"]) == (1, "failed")
    assert said.document["nodes"][0]["error"]["exit_code"] == 3
    assert "a  failed" in said.err


def test_a_file_runs_in_the_workspace_of_the_settings(write, shell, cli):
    file = write(
        "two.py",
        "from agentflow import node, workflow\n"
        "@workflow(name='child')\n"
        "def child():\n"
        "    node.noop('a')\n"
        "@workflow(name='two')\n"
        "def two():\n"
        "    node.workflow('s', name='child')\n",
    )
    assert cli("workspaces", "create", "team").code == 0
    done = shell("run", f"{file}::two", "--json", env={"AGENTFLOW_WORKSPACE": "team"})
    assert (done.code, done.document.get("state")) == (0, "success"), done
    shown = {
        name: shell("runs", "show", done.document["id"], "--json", env={"AGENTFLOW_WORKSPACE": name}).code
        for name in ("team", "default")
    }
    assert shown == {"team": 0, "default": 1}
    told = shell("why", done.document["id"], "s.sub[0]", env={"AGENTFLOW_WORKSPACE": "team"})
    assert told.out.startswith("s.sub[0] is success\n")

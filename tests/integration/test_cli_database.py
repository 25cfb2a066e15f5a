"""The commands on a real database, without a scheduler: what they write, print and refuse."""

from __future__ import annotations

import json
import zlib

import pytest
from sqlalchemy import text

from agentflow.cli import main

HELLO = """
name: hello
title: Hello
params:
  city: {type: string, default: Berlin}
  count: {type: integer, default: 1}
nodes:
  fetch: {type: noop}
  clean: {type: noop, needs: [fetch]}
"""


class Shell:
    """Runs command lines in this process."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments, code=0):
        """Stdout of a command that must end with `code`."""
        self._capsys.readouterr()
        found = main.main(list(arguments))
        captured = self._capsys.readouterr()
        assert found == code, captured.err
        self.notes = captured.err
        return captured.out

    def json(self, *arguments, code=0):
        """The one document that `--json` prints."""
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def cli(database_url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "hello.yaml").write_text(HELLO)
    return Shell(capsys)


@pytest.fixture
def applied(cli):
    cli("apply", "hello.yaml")
    return cli


def test_apply_makes_a_version_only_for_new_content(cli, tmp_path):
    assert cli.json("apply", "hello.yaml") == {
        "items": [{"name": "hello", "version": 1, "changed": True, "created": True}]
    }
    assert cli.json("apply", "hello.yaml")["items"][0] == {
        "name": "hello",
        "version": 1,
        "changed": False,
        "created": False,
    }
    (tmp_path / "hello.yaml").write_text(HELLO.replace("Berlin", "Paris"))
    assert cli("apply", "hello.yaml") == "hello  version 2  updated\n"


def test_apply_stores_nothing_when_one_file_is_not_valid(cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: bad\nnodes: {a: {type: noop, need: [b]}}\n")
    error = cli.json("apply", "hello.yaml", "bad.yaml", code=1)["error"]
    assert error["type"] == "invalid-spec"
    assert error["line"] == 2
    assert cli.json("workflows", "list") == {"items": [], "next_cursor": None}


def test_a_stored_workflow_is_listed_shown_and_exported(applied, tmp_path):
    listed = applied.json("workflows", "list")["items"][0]
    assert {key: listed[key] for key in ("name", "title", "version", "source", "paused", "latest_run")} == {
        "name": "hello",
        "title": "Hello",
        "version": 1,
        "source": "api",
        "paused": False,
        "latest_run": None,
    }
    assert applied.json("workflows", "show", "hello")["name"] == "hello"
    (tmp_path / "again.yaml").write_text(applied("export", "hello"))
    assert applied.json("apply", "again.yaml")["items"][0]["changed"] is False


def test_pause_and_unpause_say_whether_they_changed_anything(applied):
    assert applied.json("workflows", "pause", "hello") == {"name": "hello", "changed": True}
    assert applied("workflows", "pause", "hello") == "hello was paused already\n"
    assert applied.json("workflows", "unpause", "hello") == {"name": "hello", "changed": True}


def test_delete_asks_and_cannot_ask_in_a_pipe(applied, monkeypatch):
    assert "--yes" in applied("workflows", "delete", "hello", code=2) + applied.notes
    applied("workflows", "delete", "hello", "--yes")
    assert applied.json("workflows", "show", "hello", code=1)["error"]["type"] == "not-found"


def test_trigger_prints_the_id_and_runs_shows_the_run(applied):
    run_id = applied("trigger", "hello", "--param", "city=Rome", "--note", "by hand").strip()
    run = applied.json("runs", "show", run_id)
    assert {key: run[key] for key in ("id", "workflow", "version", "state", "triggered_by", "params", "note")} == {
        "id": run_id,
        "workflow": "hello",
        "version": 1,
        "state": "queued",
        "triggered_by": "cli",
        "params": {"city": "Rome", "count": 1},
        "note": "by hand",
    }
    assert [(node["node"], node["map_index"], node["state"], node["attempt"]) for node in run["nodes"]] == [
        ("fetch", None, "pending", 0),
        ("clean", None, "pending", 0),
    ]
    assert [node["node"] for node in applied.json("runs", "show", run_id, "clean")["nodes"]] == ["clean"]
    assert run_id in applied("runs", "list")
    assert "Rome" in applied("runs", "show", run_id)


def test_wrong_params_are_told_together_and_are_wrong_usage(applied):
    error = applied.json("trigger", "hello", "--param", "count=many", "--param", "x=1", code=2)["error"]
    assert error["type"] == "invalid-params"
    assert sorted(problem["path"] for problem in error["errors"]) == ["count", "x"]
    assert applied.json("runs", "list")["items"] == []


def test_waiting_for_a_paused_workflow_fails_at_once(applied):
    applied("workflows", "pause", "hello")
    run = applied.json("trigger", "hello", "--wait", code=1)
    assert run["paused"] is True
    assert run["state"] == "queued"
    assert "unpause" in applied.notes


def test_a_logical_date_is_utc_unless_it_says_and_unique(applied):
    run = applied.json("trigger", "hello", "--logical-date", "2026-11-22")
    assert run["logical_date"] == "2026-11-22T00:00:00.000000Z"
    error = applied.json("trigger", "hello", "--logical-date", "2026-11-22T01:00:00+01:00", code=1)["error"]
    assert error["type"] == "conflict"
    applied("trigger", "hello", "--logical-date", "yesterday", code=2)


def test_a_cancelled_run_ends_a_wait_with_exit_1(applied):
    run_id = applied("trigger", "hello").strip()
    assert applied.json("runs", "cancel", run_id) == {"id": run_id, "changed": True}
    assert applied.json("runs", "cancel", run_id) == {"id": run_id, "changed": False}
    document = applied.json("runs", "wait", run_id, code=1)
    assert document["state"] == "cancelled"
    assert applied.json("runs", "show", run_id)["state"] == "cancelled"


def test_runs_are_listed_in_pages_of_the_newest_first(applied):
    ids = [applied("trigger", "hello").strip() for _ in range(3)]
    first = applied.json("runs", "list", "--limit", "2")
    second = applied.json("runs", "list", "--limit", "2", "--cursor", first["next_cursor"])
    assert [run["id"] for run in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert applied.json("runs", "list", "--state", "failed")["items"] == []
    applied("runs", "list", "--state", "done", code=2)


def test_notes_and_reruns(applied):
    run_id = applied("trigger", "hello", "--param", "city=Oslo").strip()
    assert applied.json("runs", "note", run_id, "checked") == {"id": run_id, "changed": True}
    again = applied("runs", "rerun", run_id).strip()
    assert applied.json("runs", "show", again)["params"]["city"] == "Oslo"


@pytest.mark.parametrize("command", [("show",), ("cancel",), ("wait",), ("rerun",), ("clear",)])
@pytest.mark.parametrize("run_id", ["019aa8b1-0000-7000-8000-000000000001", "nonsense"])
def test_an_unknown_run_is_not_found(applied, command, run_id):
    error = applied.json("runs", *command, run_id, code=1)["error"]
    assert error["type"] == "not-found"
    assert error["hint"]


def test_pools_and_variables_are_set_listed_and_deleted(cli):
    cli("pools", "set", "gpu", "2", "--description", "two cards")
    pool = next(item for item in cli.json("pools", "list")["items"] if item["name"] == "gpu")
    assert (pool["slots"], pool["description"]) == (2, "two cards")
    assert cli.json("pools", "delete", "gpu") == {"name": "gpu", "changed": True}
    cli("pools", "delete", "gpu", code=1)
    cli("variables", "set", "city", "Berlin")
    cli("variables", "set", "limits", "[1, 2]", "--as-json")
    cli("variables", "set", "broken", "[1,", "--as-json", code=2)
    assert [(item["name"], item["value"]) for item in cli.json("variables", "list")["items"]] == [
        ("city", "Berlin"),
        ("limits", [1, 2]),
    ]
    cli("variables", "delete", "city")


def store_log(engine, run_id, node_no, lines):
    data = "".join(json.dumps([seq, 1795327200.5, stream, "info", message]) + "\n" for seq, stream, message in lines)
    with engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)
                    VALUES (:run, :node, -1, 1, 0, :first, :lines, 0, :data)"""),
            {
                "run": run_id,
                "node": node_no,
                "first": lines[0][0],
                "lines": len(lines),
                "data": zlib.compress(data.encode()),
            },
        )


def test_logs_are_printed_by_line(applied, engine):
    run_id = applied("trigger", "hello").strip()
    assert applied("logs", run_id) == ""
    assert applied.notes == "no log lines\n"
    store_log(engine, run_id, 0, [(1, "stdout", "one\x1b[2J"), (2, "stderr", "two")])
    assert applied("logs", run_id).splitlines() == ["06:00:00.500 fetch one", "06:00:00.500 fetch ! two"]
    assert applied("logs", run_id, "clean") == ""
    documents = [json.loads(line) for line in applied("logs", run_id, "fetch", "--json").splitlines()]
    assert documents[0] == {
        "node": "fetch",
        "map_index": None,
        "attempt": 1,
        "seq": 1,
        "at": "2026-11-22T06:00:00.500000Z",
        "stream": "stdout",
        "level": "info",
        "text": "one\x1b[2J",
    }
    applied("logs", run_id, "nobody", code=1)


def test_following_the_log_of_an_ended_run_prints_each_line_once(applied, engine):
    run_id = applied("trigger", "hello").strip()
    store_log(engine, run_id, 0, [(1, "stdout", "one"), (2, "stdout", "two")])
    applied("runs", "cancel", run_id)
    assert len(applied("logs", run_id, "--follow").splitlines()) == 2


def test_import_errors_are_a_list(cli):
    assert cli.json("import-errors") == {"items": [], "next_cursor": None}


def test_an_external_database_without_a_schema_is_not_touched(cli, empty_database_url, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", empty_database_url)
    error = cli.json("workflows", "list", code=3)["error"]
    assert error["type"] == "database-not-ready"
    assert "agentflow db upgrade" in error["hint"]
    assert cli.json("db", "check", code=1)["ready"] is False
    assert cli.json("db", "current") == {"current": None}
    assert cli.json("db", "upgrade")["changed"] is True
    assert cli.json("db", "upgrade")["changed"] is False
    assert cli.json("db", "check")["ready"] is True


def test_db_url_prints_an_address_for_psql(cli, database_url):
    assert cli("db", "url").startswith("postgresql://")
    assert cli.json("db", "url")["embedded"] is False


@pytest.mark.parametrize("command", [["workflows", "list"], ["db", "url"], ["runs", "list"], ["doctor"]])
def test_a_database_that_does_not_answer_is_exit_3(cli, monkeypatch, command):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    shown = cli(*command, "--json", code=3)
    assert "secret" not in shown
    json.loads(shown)


def test_doctor_checks_a_live_database(cli):
    report = cli.json("doctor")
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert report["ok"] is True
    assert found["database"] == found["migrations"] == found["clock"] == found["notify"] == "ok"
    assert found["scheduler"] == "warning"

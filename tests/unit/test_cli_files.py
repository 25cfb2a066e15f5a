from __future__ import annotations

import json

import pytest

from agentflow.cli import main, sources

GOOD = "name: good\nnodes:\n  a: {type: noop}\n"
BAD = "name: bad\nnodes:\n  a: {type: noop, need: [b]}\n"
PYTHON = """
from agentflow import node, workflow

@node
def load():
    return 1

@workflow(name="first")
def first():
    load()

@workflow(name="second", triggers=[{"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}])
def second():
    load()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "two.py").write_text(PYTHON)
    return tmp_path


def run_json(capsys, *arguments, code=0):
    assert main.main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_valid_files_are_exit_0_without_a_database(capsys):
    report = run_json(capsys, "validate", "good.yaml", "two.py")
    assert report == {
        "valid": True,
        "files": [
            {"file": "good.yaml", "name": "good", "valid": True, "errors": []},
            {"file": "two.py", "name": "first", "valid": True, "errors": []},
            {"file": "two.py", "name": "second", "valid": True, "errors": []},
        ],
    }


def test_a_wrong_file_is_exit_1_with_place_and_hint(capsys):
    report = run_json(capsys, "validate", "good.yaml", "bad.yaml", code=1)
    assert report["valid"] is False
    (error,) = report["files"][1]["errors"]
    assert set(error) == {"line", "column", "path", "message", "hint"}
    assert (error["line"], error["column"]) == (3, 19)
    assert "needs" in error["hint"]


def test_people_see_place_message_and_hint(capsys):
    assert main.main(["validate", "bad.yaml"]) == 1
    out = capsys.readouterr().out
    assert "bad.yaml:3:19: nodes.a.need: unknown key `need`" in out
    assert "did you mean `needs`?" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.yaml", None),
        ("empty.yaml", b""),
        ("latin.yaml", b"name: caf\xe9\n"),
        ("notes.txt", b"hello"),
        ("none.py", b"x = 1\n"),
        ("raises.py", b"1 / 0\n"),
        ("exits.py", b"raise SystemExit(0)\n"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_a_report_not_a_crash(capsys, folder, name, content):
    if content is not None:
        (folder / name).write_bytes(content)
    report = run_json(capsys, "validate", name, code=1)
    (entry,) = report["files"]
    assert entry["valid"] is False
    assert entry["errors"][0]["message"]


def test_the_schema_is_json_schema(capsys):
    assert main.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


def test_next_of_a_file_marks_daylight_saving(capsys):
    items = run_json(capsys, "next", "two.py::second", "--from", "2027-03-27T12:00:00Z", "--count", "2")["items"]
    assert [(item["at"], item["note"]) for item in items] == [
        ("2027-03-28T01:00:00.000000Z", "dst-gap"),
        ("2027-03-29T00:30:00.000000Z", None),
    ]


def test_next_from_a_time_that_is_none_is_wrong_usage(capsys):
    for words in (["two.py::second", "--from", "soon"], ["good.yaml", "--from", "2026-13-01"]):
        assert run_json(capsys, "next", *words, code=2)["error"]["detail"].startswith("--from")


def test_next_of_a_workflow_without_a_clock_is_empty(capsys):
    assert run_json(capsys, "next", "good.yaml") == {"items": []}


@pytest.mark.parametrize("target", ["two.py", "two.py::third", "good.yaml::other"])
def test_next_must_know_which_workflow_is_meant(capsys, target):
    assert run_json(capsys, "next", target, code=2)["error"]["type"] == "usage"


@pytest.mark.parametrize(
    ("target", "is_file"),
    [
        ("report", False),
        ("nightly-report", False),
        ("report.yaml", True),
        ("dags/report", True),
        ("flows.py::etl", True),
        ("v1.2", False),
    ],
)
def test_a_target_with_a_slash_or_a_suffix_is_a_file(target, is_file):
    assert sources.looks_like_file(target) is is_file

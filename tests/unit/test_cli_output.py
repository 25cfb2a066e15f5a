from __future__ import annotations

import io
import json
import sys

import pytest

from agentflow.cli import output
from agentflow.cli.output import Column
from agentflow.errors import UsageError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (-0.4, "0ms"),
        (0.0123, "12ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (125, "2m05s"),
        (3720, "1h02m"),
        (273600, "3d04h"),
    ],
)
def test_durations_for_people(seconds, text):
    assert output.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain ✓ text\n\tindented", "plain ✓ text\n\tindented"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hhome", "home"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\x00b\x07c\x7f\x9bd", "abcd"),
        ("back\r\x08over", "backover"),
        ("lonely\x1b", "lonely"),
    ],
)
def test_text_of_users_cannot_steer_the_terminal(text, cleaned):
    assert output.clean(text) == cleaned


def test_colours_stay_where_they_are_asked_for():
    assert output.clean("\x1b[31mred\x1b[0m\x1b[2J", colours=True) == "\x1b[31mred\x1b[0m"


COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("NOTE", lambda row: row.get("note"), keep=1),
    Column("N", lambda row: str(row["n"]), keep=5, right=True),
]


def test_a_table_in_a_pipe_is_whole(capsys):
    output.print_table(
        COLUMNS, [{"name": "x" * 300, "n": 1, "note": "a\nb\x1b[2J"}, {"name": "y", "n": 22}], empty="none"
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "NOTE", "N"],
        ["x" * 300, "a", "b", "1"],
        ["y", "-", "22"],
    ]


def test_an_empty_table_says_so_on_stderr(capsys):
    output.print_table(COLUMNS, [], empty="nothing yet")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "nothing yet\n"


@pytest.mark.parametrize(
    ("available", "chosen"),
    [(None, [0, 1, 2]), (40, [0, 1, 2]), (34, [0, 1, 2]), (33, [0, 2]), (10, [0, 2]), (1, [0, 2])],
)
def test_the_least_important_columns_go_first(available, chosen):
    assert output.fitting([10, 10, 10], [9, 1, 5], available) == chosen


def test_json_falls_back_to_ascii_where_the_stream_cannot_write_it(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    output.print_json({"text": "✓"})
    assert json.loads(stream.buffer.getvalue()) == {"text": "✓"}


@pytest.mark.parametrize(
    ("result", "document"),
    [
        (None, {"name": "x", "changed": True}),
        ({"changed": False, "more": 1}, {"name": "x", "changed": False, "more": 1}),
    ],
)
def test_an_action_says_what_it_changed(result, document):
    assert output.action("name", "x", result) == document


def test_a_question_that_nobody_can_answer_is_wrong_usage(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="Delete it"):
        output.confirm("Delete it?")

from __future__ import annotations

import io
import json
import logging
import sys
from dataclasses import dataclass

import pytest

from agentflow import correlation, log


@dataclass
class Asked:
    log_format: str = "console"
    log_level: str = "INFO"


@pytest.fixture(autouse=True)
def _root_logger_restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stderr(capsys):
    return lambda: capsys.readouterr().err


def test_json_lines_carry_event_fields_and_time(stderr):
    log.configure(Asked("json"))
    logging.getLogger("scheduler.loop").info("run_started", extra={"run_id": "r1", "attempt": 2})
    line = json.loads(stderr())
    assert line.pop("at").endswith("Z")
    assert line == {"level": "info", "logger": "scheduler.loop", "event": "run_started", "run_id": "r1", "attempt": 2}


def test_an_exception_stays_on_one_json_line(stderr):
    log.configure(Asked("json"))
    try:
        int("broken")
    except ValueError:
        logging.getLogger("x").exception("tick_failed")
    (line,) = stderr().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_console_columns_show_event_then_fields(stderr):
    log.configure(Asked())
    logging.getLogger("scheduler.loop").warning("run_late", extra={"run_id": "r1"})
    line = stderr()
    assert "WARNING" in line
    assert line.rstrip().endswith("run_late                 run_id=r1")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "v=plain"),
        ("two words", 'v="two words"'),
        ("a\nforged line", 'v="a\\nforged line"'),
        ("\x1b[2J", 'v="\\u001b[2J"'),
        ("", 'v=""'),
        (None, "v=None"),
    ],
)
def test_a_field_cannot_break_its_line(stderr, value, shown):
    log.configure(Asked())
    logging.getLogger("x").info("event", extra={"v": value})
    text = stderr()
    assert text.count("\n") == 1
    assert text.rstrip("\n").endswith(shown)


def test_a_message_with_a_line_end_stays_on_its_line(stderr):
    log.configure(Asked())
    logging.getLogger("x").info("a\nb")
    assert stderr().count("\n") == 1


def test_configuring_twice_writes_each_line_once(stderr):
    log.configure(Asked())
    log.configure(Asked())
    logging.getLogger("x").info("once")
    assert stderr().count("once") == 1


@pytest.mark.parametrize(
    ("asked", "floor", "level"),
    [
        ("INFO", "DEBUG", logging.INFO),
        ("INFO", "WARNING", logging.WARNING),
        ("ERROR", "WARNING", logging.ERROR),
        ("DEBUG", "WARNING", logging.DEBUG),  # who asks for DEBUG gets it
    ],
)
def test_commands_raise_the_level_unless_debug_was_asked_for(asked, floor, level):
    log.configure(Asked(log_level=asked), at_least=floor)
    assert logging.getLogger().level == level


def test_lines_follow_stderr_when_it_is_replaced(monkeypatch):
    log.configure(Asked())
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logging.getLogger("x").info("moved")
    assert "moved" in later.getvalue()


def test_lines_of_a_request_carry_its_id(stderr):
    log.configure(Asked("json"))
    with correlation.bound("request-1"):
        logging.getLogger("x").info("one")
        logging.getLogger("x").info("two", extra={"request_id": "given"})
    logging.getLogger("x").info("three")
    assert [json.loads(line).get("request_id") for line in stderr().splitlines()] == ["request-1", "given", None]

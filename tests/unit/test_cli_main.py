from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer

from agentflow.cli import context, failures, main, output
from agentflow.errors import DatabaseUnreachable, NotFound, ParamError, Problem, SpecError


@pytest.fixture
def failing(monkeypatch):
    """Makes `agentflow config` raise."""

    def arrange(error):
        def raise_it():
            raise error

        monkeypatch.setattr(context, "settings", raise_it)

    return arrange


ERRORS = [
    (NotFound("There is no run x.", hint="look again"), 1, "not-found"),
    (SpecError([Problem("unknown key", path="nodes.a", line=3)], file="a.yaml"), 1, "invalid-spec"),
    (ParamError([Problem("is required", path="city")]), 2, "invalid-params"),
    (DatabaseUnreachable("nobody answers"), 3, "database-unreachable"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("oops"), 1, "internal"),
]


@pytest.mark.parametrize(("error", "code", "_word"), ERRORS)
def test_every_error_is_a_message_on_stderr_and_an_exit_code(failing, capsys, error, code, _word):
    failing(error)
    assert main.main(["config"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(("error", "code", "word"), ERRORS)
def test_with_json_every_error_is_one_document_on_stdout(failing, capsys, error, code, word):
    failing(error)
    assert main.main(["config", "--json"]) == code
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert set(document) == {"error"}
    assert document["error"]["type"] == word
    assert document["error"]["title"]
    assert document["error"]["detail"]
    assert captured.err == ""


def test_a_hint_is_shown_with_its_error(failing, capsys):
    failing(NotFound("There is no run x.", hint="look again"))
    main.main(["config"])
    assert capsys.readouterr().err == "Error: There is no run x.\nHint: look again\n"


def test_long_messages_are_not_broken_by_us(failing, capsys):
    failing(NotFound("x" * 300))
    main.main(["config"])
    assert capsys.readouterr().err == f"Error: {'x' * 300}\n"


def test_control_characters_of_a_message_do_not_reach_the_terminal(failing, capsys):
    failing(NotFound("\x1b[2Jgone"))
    main.main(["config"])
    assert capsys.readouterr().err == "Error: gone\n"


def test_debug_shows_the_traceback_of_a_defect(failing, capsys, monkeypatch):
    failing(ZeroDivisionError("oops"))
    monkeypatch.setenv("AGENTFLOW_LOG_LEVEL", "DEBUG")
    assert main.main(["config"]) == 1
    assert "raise_it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["runs"],
        ["runs", "show"],
        ["runs", "list", "--limit", "many"],
        ["config", "--wrong"],
        ["next", "x", "--count", "0"],
    ],
)
def test_wrong_usage_is_exit_2_in_both_shapes(capsys, arguments):
    assert main.main(arguments) == 2
    assert "Error: " in capsys.readouterr().err
    assert main.main([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "usage"


def test_json_after_two_dashes_is_an_argument(capsys):
    assert main.main(["runs", "wait", "--", "--json", "x"]) == 2
    assert capsys.readouterr().out == ""


def test_a_misspelt_command_gets_a_suggestion(capsys):
    main.main(["workflow"])
    assert "Did you mean 'workflows'" in capsys.readouterr().err


def test_no_command_shows_the_help_and_is_wrong_usage(capsys):
    assert main.main([]) == 2
    assert "standalone" in capsys.readouterr().out


def test_version_is_printed(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


class TestPlugins:
    @pytest.fixture(autouse=True)
    def _restored(self, monkeypatch):
        monkeypatch.setattr(main, "plugins", lambda: self.points)

    points: dict = {}  # noqa: RUF012 - set by each test before use

    def given(self, **values):
        self.points = {name: EntryPoint(name, value, main.COMMANDS) for name, value in values.items()}

    def test_a_function_becomes_a_command(self, capsys):
        self.given(greet=f"{__name__}:greet")
        sys.modules[__name__] = sys.modules.get(__name__) or _this_module()
        assert main.main(["greet", "you", "--loud"]) == 0
        assert capsys.readouterr().out == "HELLO YOU\n"

    def test_a_typer_app_becomes_a_group(self, capsys):
        self.given(zoo=f"{__name__}:zoo")
        sys.modules[__name__] = sys.modules.get(__name__) or _this_module()
        assert main.main(["zoo", "feed"]) == 0
        assert capsys.readouterr().out == "fed\n"

    def test_a_broken_one_leaves_the_others_working(self, capsys):
        self.given(broken="no.such.module:x")
        assert main.main(["--help"]) == 0
        captured = capsys.readouterr()
        assert "workflows" in captured.out
        assert "command broken (no.such.module:x) cannot be loaded" in captured.err

    def test_it_is_not_imported_for_other_commands(self, capsys):
        self.given(broken="no.such.module:x")
        assert main.main(["--version"]) == 0
        assert capsys.readouterr().err == ""

    def test_its_name_is_suggested(self, capsys):
        self.given(greet=f"{__name__}:greet")
        sys.modules[__name__] = sys.modules.get(__name__) or _this_module()
        assert main.main(["gret"]) == 2
        assert "Did you mean 'greet'" in capsys.readouterr().err


def _this_module():
    import types

    module = types.ModuleType(__name__)
    module.greet, module.zoo = greet, zoo
    return module


def greet(who: str, *, loud: bool = False) -> None:
    """Say hello."""
    text = f"hello {who}"
    output.say(text.upper() if loud else text)


zoo = typer.Typer(help="Animals.")


@zoo.command()
def feed() -> None:
    """Feed them."""
    output.say("fed")


@zoo.command()
def count() -> None:
    """Count them."""
    output.say("3")


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "agentflow", "config", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_the_help_needs_no_heavy_imports():
    code = "import sys; from agentflow.cli.main import main; main(['runs', '--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stderr
    for heavy in (
        "sqlalchemy",
        "alembic",
        "psycopg",
        "ruamel",
        "jinja2",
        "apscheduler",
        "httpx",
        "scheduler",
    ):
        assert f"'{heavy}'" not in loaded, heavy


def test_interrupted_is_an_error_of_the_tree():
    assert failures.Interrupted().exit_code == 130

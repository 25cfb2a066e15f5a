"""The one place where errors become text or JSON and an exit code (SEMANTICS 8)."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

from agentflow.cli import output
from agentflow.errors import AgentFlowError


class Interrupted(AgentFlowError):
    """Interrupted."""

    word = "interrupted"
    exit_code = 130


class Unexpected(AgentFlowError):
    """AgentFlow has a defect here."""

    word = "internal"


def report(error: Exception, *, as_json: bool) -> int:
    """Tell the user what went wrong; returns the exit code.

    People get a message and a hint on stderr; with `--json` stdout carries `{"error": {…}}`.
    """
    if isinstance(error, typer.TyperException):
        return _report_usage(error, as_json=as_json)
    if not isinstance(error, AgentFlowError):
        error = _unexpected(error)
    if as_json:
        output.print_json({"error": error.as_document()})
    else:
        _print_error(error.message, error.hint)
    return error.exit_code


def _unexpected(error: Exception) -> AgentFlowError:
    if wants_traceback():
        traceback.print_exception(error)
    first = (str(error).strip() or "no message").splitlines()[0]
    return Unexpected(
        f"{type(error).__name__}: {first}",
        hint="this is a defect of AgentFlow: please report it with the traceback, which AGENTFLOW_LOG_LEVEL=DEBUG shows",
    )


def wants_traceback() -> bool:
    """Whether unexpected errors show where they came from."""
    return os.environ.get("AGENTFLOW_LOG_LEVEL", "").upper() == "DEBUG"


def _report_usage(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message() or "wrong usage"
    hint = f"`{context.command_path} --help` shows how it is used" if context is not None else None
    if as_json:
        document: dict[str, Any] = {
            "type": "usage",
            "title": "The command was given wrong arguments.",
            "detail": message,
        }
        output.print_json({"error": document | ({"hint": hint} if hint else {})})
    else:
        if context is not None:
            sys.stderr.write(context.get_usage() + "\n")
        _print_error(message, hint)
    return error.exit_code


def _print_error(message: str, hint: str | None) -> None:
    from rich.text import Text

    console = output.stderr()
    console.print(Text.assemble(("Error: ", "bold red"), output.clean(message)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("Hint: ", "bold cyan"), output.clean(hint)), soft_wrap=True)

"""Reads secret values: from a file, standard input or a hidden prompt, never from the command line, which `ps` shows."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from agentflow.cli import output
from agentflow.errors import FileNotReadable, UsageError

SHORT = 8  #: Characters; shorter values are easily guessed, and masking them hides ordinary words.


def read_secret(what: str, file: Path | None) -> str:
    """One secret value.

    Args:
        what: For the prompt: `API_KEY`.
        file: Where it stands; None: standard input, prompted for if that is a terminal.

    Raises:
        FileNotReadable: The file cannot be read.
        UsageError: It is not text.
    """
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise FileNotReadable(f"{file}: {error.strerror}") from error
    elif sys.stdin.isatty():
        return str(typer.prompt(f"Value of {what}", hide_input=True, confirmation_prompt=True, err=True))
    else:
        data = sys.stdin.buffer.read()
    try:
        return without_line_end(data.decode())
    except UnicodeDecodeError:
        raise UsageError(f"The value of {what} is not UTF-8 text.", hint="store binary data as base64") from None


def without_line_end(text: str) -> str:
    """A single line loses its line end, as `echo` and editors add it; several lines are kept as they are."""
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line


def warn_if_short(what: str, value: str) -> None:
    """Tell on stderr when masking will not do much good."""
    from agentflow.runner.masking import SHORTEST

    if len(value) < SHORTEST:
        output.note(f"{what} has fewer than {SHORTEST} characters: it cannot be masked in logs and outputs")
    elif len(value) < SHORT:
        output.note(f"{what} is short: wherever the same text stands in logs and outputs, *** will be shown")

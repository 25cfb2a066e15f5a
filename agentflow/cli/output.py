"""What commands print: one JSON document on stdout, or text and tables for people; notes go to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: What an API answers about one thing.
Document = Mapping[str, Any]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

#: Panels of `agentflow --help`; what starts something stands before them.
FILES, RUNS, SYSTEM = "Workflow files", "Workflows and runs", "System"

_live: list[Console] = []  #: Consoles that a live display holds at the moment.
_CONTROL = re.compile(
    r"\x1b\[[0-9;:]*m|\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|.)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")


def clean(text: str, *, colours: bool = False) -> str:
    """Text of users without control characters, so that it cannot steer the terminal; `colours` keeps SGR codes."""
    return _CONTROL.sub(lambda match: match[0] if colours and _COLOUR.fullmatch(match[0]) else "", text)


def stdout() -> Console:
    """The console for results. Where stdout is no terminal nothing is cut or wrapped."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for errors, notes and progress."""
    return _live[-1] if _live else _console(stderr=True)


@contextmanager
def live_on(console: Console) -> Iterator[None]:
    """While a live display is drawn on this console, everything for stderr goes through it, to stand above the display."""
    _live.append(console)
    try:
        yield
    finally:
        _live.remove(console)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_json(document: Any) -> None:
    """Write one JSON document and a line end to stdout: indented for people, compact for pipes."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a Latin-1 terminal, or a file name that is not UTF-8
        text = json.dumps(document, indent=indent)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit(document: Any, *, as_json: bool, human: Callable[[], None]) -> None:
    """The result of a command: the document for `--json`, else whatever `human` prints."""
    if as_json:
        print_json(document)
    else:
        human()


def note(text: str) -> None:
    """One line for people on stderr."""
    stderr().print(clean(text), soft_wrap=True, style="dim")


def say(text: str | Text) -> None:
    """One line for people on stdout; wrapped by the terminal, so that ids can be copied whole."""
    stdout().print(clean(text) if isinstance(text, str) else text, soft_wrap=True)


def note_more(cursor: str | None) -> None:
    """How to see the next page, if there is one."""
    if cursor:
        note(f"more: --cursor {cursor}")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    cell: Callable[[Document], str | Text | None]  #: From a row's document to what is shown.
    keep: int = 0  #: Columns with the smallest number go first when the terminal is narrow.
    right: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Document], *, empty: str) -> None:
    """A table on stdout.

    Columns that do not fit are left out, least important first; the rest fold, so nothing is cut to `…`. In a pipe
    every column is printed whole.
    """
    from rich.table import Table
    from rich.text import Text

    console = stdout()
    cells = [[_cell(column.cell(row)) for column in columns] for row in rows]
    if not cells:
        note(empty)
        return
    widths = [
        max([len(column.title), *(line[index].cell_len for line in cells)]) for index, column in enumerate(columns)
    ]
    chosen = fitting(widths, [column.keep for column in columns], console.width if console.is_terminal else None)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for index in chosen:
        table.add_column(
            columns[index].title, justify="right" if columns[index].right else "left", overflow="fold", min_width=4
        )
    for line in cells:
        table.add_row(*(line[index] for index in chosen))
    if console.is_terminal:
        console.print(table)
    else:
        for line in [[Text(column.title) for column in columns], *cells]:
            padded = (part.plain.ljust(width) for part, width in zip(line, widths, strict=True))
            sys.stdout.write("  ".join(padded).rstrip() + "\n")


def fitting(widths: Sequence[int], keep: Sequence[int], available: int | None) -> list[int]:
    """Indexes of the columns to show: the least important are dropped until the rest fits; two always stay."""
    chosen = list(range(len(widths)))
    while available is not None and len(chosen) > 2 and sum(widths[i] + 2 for i in chosen) - 2 > available:
        chosen.remove(min(reversed(chosen), key=lambda index: keep[index]))
    return chosen


def _cell(value: str | Text | None) -> Text:
    from rich.text import Text

    if isinstance(value, Text):
        return value
    return Text(clean(value or "-").replace("\n", " "))


def short_time(iso: str | None) -> str:
    """A time for tables: UTC to the second. JSON has the microseconds."""
    return f"{iso[:19].replace('T', ' ')}Z" if iso else "-"


def read_time(iso: str | None) -> datetime | None:
    """The instant that a document's time names."""
    return datetime.fromisoformat(iso) if iso else None


def duration_text(seconds: float | None) -> str:
    """A duration for people: `12ms 3.4s 2m05s 1h02m 3d04h`."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def print_fields(fields: Sequence[tuple[str, str | Text | None]]) -> None:
    """Names and values below each other; those without a value are left out."""
    from rich.text import Text

    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        if value:
            shown = value if isinstance(value, Text) else Text(clean(value))
            say(Text.assemble((f"{name:<{width}}  ", "dim"), shown))


def action(key: str, value: str, result: Document | None = None) -> dict[str, Any]:
    """The document of an action: `{id|name, changed}` and what else the use case tells."""
    return {key: value, "changed": True, **(result or {})}


def confirm(question: str) -> None:
    """Ask on stderr; leave with exit code 1 unless the answer is yes.

    Raises:
        UsageError: Nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can answer here.", hint="pass --yes to do it without asking")
    if not typer.confirm(question, err=True):
        note("nothing was done")
        raise typer.Exit(1)

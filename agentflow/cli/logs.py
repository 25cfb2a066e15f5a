"""`agentflow logs`: the lines that nodes of a run wrote."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.errors import UsageError
from agentflow.states import RUN_FINAL

if TYPE_CHECKING:
    from rich.console import Console

    from agentflow.cli.context import Api

POLL = 1.0  #: Seconds between looks when no news comes.
_LEVELS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}

Line = output.Document


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=output.RUNS)(logs)


def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of the run.")],
    node: Annotated[
        str | None, typer.Argument(help="Only this node, index or sub-run: fetch, fetch[3], loop.sub[2].fetch.")
    ] = None,
    *,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only this attempt. Default: all.")] = None,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Only lines behind line N of each attempt.")] = 0,
    until: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only lines up to line N of each attempt.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document per log line.")] = False,
) -> None:
    """Print the log of a run or of one of its nodes."""
    if follow and until is not None:
        raise UsageError("--follow has no end that --until could name.", hint="leave out one of them")
    console = output.stdout()
    shown = 0
    with context.api() as api:
        lines: Iterator[Line]
        if follow:
            lines = _followed(api, run_id, node, attempt, since=after)
        else:
            lines = api.runs.logs(run_id, node, attempt, after=after, until=until)
        for line in lines:
            shown += 1
            if json:
                sys.stdout.write(json_module.dumps(line, ensure_ascii=False) + "\n")
            else:
                print_line(console, line, with_node=node is None)
        sys.stdout.flush()
    if not shown and not json:
        output.note("no log lines")


def print_line(console: Console, line: Line, *, with_node: bool) -> None:
    """One line: time, node, text. Colours of the program stay in a terminal, other control codes never do."""
    name = line["node"] if line["map_index"] is None else f"{line['node']}[{line['map_index']}]"
    if not console.is_terminal:  # rich would take 30 times as long, which a million lines make felt
        mark = "! " if line["stream"] == "stderr" else ""
        shown = f"{output.clean(name)} " if with_node else ""
        sys.stdout.write(f"{line['at'][11:23]} {shown}{mark}{output.clean(line['text'])}\n")
        return
    from rich.text import Text

    text = Text.from_ansi(output.clean(line["text"], colours=console.is_terminal))
    if line["level"] in _LEVELS and not text.spans:
        text.stylize(_LEVELS[line["level"]])
    head = Text(f"{line['at'][11:23]} ", "dim")
    if with_node:
        head.append(f"{output.clean(name)} ", "cyan")
    if line["stream"] == "stderr":
        head.append("! ", "yellow")
    console.print(head + text, soft_wrap=True)


def _followed(api: Api, run_id: str, node: str | None, attempt: int | None, *, since: int) -> Iterator[Line]:
    """Lines as they come, until the run has ended and its last lines are told."""
    from agentflow.cli.following import following

    told: dict[tuple[Any, ...], int] = {}
    one_stream = node is not None and attempt is not None
    with following(api) as follower:
        while True:
            # The state is read first: what is written until the end of a run is then seen by the read below.
            ended = api.runs.get(run_id)["state"] in RUN_FINAL
            began = time.monotonic()
            after = min(told.values()) if one_stream and len(told) == 1 else since
            for line in api.runs.logs(run_id, node, attempt, after=after):
                key = (line["node"], line["map_index"], line["attempt"])
                if line["seq"] > told.get(key, 0):
                    told[key] = line["seq"]
                    yield line
            sys.stdout.flush()
            if ended:
                return
            follower.wait(max(POLL, 5 * (time.monotonic() - began)))  # a long log is read again less often

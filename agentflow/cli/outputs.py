"""`agentflow output`: what a node returned, whole."""

from __future__ import annotations

import codecs
import sys
from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import JsonFlag
from agentflow.cli.run_actions import RunId
from agentflow.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("output", rich_help_panel=output.RUNS)(show)


def show(
    run_id: RunId,
    node: Annotated[str, typer.Argument(help="Node, index or node of a sub-run: fetch, fetch[3], loop.sub[2].fetch.")],
    *,
    map_index: Annotated[int | None, typer.Option(min=0, help="Index of a mapped node, as fetch[3].")] = None,
    json: JsonFlag = False,
) -> None:
    """Print the whole JSON value that a node returned; of a mapped node the list of all its indexes."""
    del json  # it is JSON in any case
    if map_index is not None and node.endswith("]"):
        raise UsageError(f"{node} names an index already.", hint="leave out --map-index")
    address = node if map_index is None else f"{node}[{map_index}]"
    decode = codecs.getincrementaldecoder("utf-8")().decode  # pieces may end within a character
    with context.api() as api:
        for piece in api.runs.output(run_id, address):
            text = decode(piece)
            sys.stdout.write(output.clean(text) if sys.stdout.isatty() else text)
    sys.stdout.write("\n")

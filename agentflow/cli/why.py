"""`agentflow why`: what keeps a node from running, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import JsonFlag
from agentflow.cli.run_actions import RunId


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=output.RUNS)(why)


def why(
    run_id: RunId,
    node: Annotated[str, typer.Argument(help="Node, index or sub-run: fetch, fetch[3], loop.sub[2].fetch.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Tell why a node is not running, and what to do."""
    with context.api() as api:
        document = api.runs.why(run_id, node)

    def human() -> None:
        queued = document["run_state"] == "queued"
        state = document["state"] or ("not started" if queued else document["run_state"])  # of a sub-run as a whole
        output.say(f"{document['node']} is {state}")
        for reason in document["reasons"]:
            output.say(f"• {reason['fact']}")
            output.say(f"  → {reason['advice']}")

    output.emit(document, as_json=json, human=human)

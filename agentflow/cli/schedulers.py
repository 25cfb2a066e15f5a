"""`agentflow schedulers`: who runs what, and what nobody runs."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

_COLUMNS = [
    Column("ID", lambda row: row["id"], keep=5),
    Column("HOST", lambda row: row["hostname"], keep=8),
    Column("PID", lambda row: str(row["pid"]), keep=7, right=True),
    Column("STATE", lambda row: row["state"], keep=10),
    Column("EXECUTORS", lambda row: ",".join(row["executors"]), keep=3),
    Column("QUEUES", lambda row: ",".join(row["queues"]), keep=6),
    Column("PARALLELISM", lambda row: str(row["parallelism"]), keep=2, right=True),
    Column("ATTEMPTS", lambda row: str(row["attempts"]), keep=4, right=True),
    Column("BEAT", lambda row: f"{output.duration_text(row['beat_age'])} ago", keep=9, right=True),
]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("schedulers", rich_help_panel=output.SYSTEM)(schedulers)


def schedulers(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that ended over an hour ago too.")] = False,
    json: JsonFlag = False,
) -> None:
    """List the schedulers, and queues with ready nodes that none of them serves."""
    with context.session() as session:
        from agentflow import schedulers as use_cases

        items = session.do(lambda connection: use_cases.list_schedulers(connection, everything=everything))
        waiting = session.do(use_cases.unserved)

    def human() -> None:
        output.print_table(_COLUMNS, items, empty="none: `agentflow standalone` or `agentflow scheduler` starts one")
        for one in waiting:
            output.note(use_cases.describe_unserved(one))

    output.emit({"items": items, "next_cursor": None, "unserved": waiting}, as_json=json, human=human)

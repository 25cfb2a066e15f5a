"""`agentflow schedulers`: who runs what, and what nobody runs."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

RECENT = 3600.0  #: Seconds since the last beat of those that are shown without `--all`.
LIMIT = 1000  #: Shown at most.
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
    with context.api() as api:
        found = api.system.schedulers(ended_within=None if everything else RECENT, limit=LIMIT)

    def human() -> None:
        from agentflow.catalog import describe_unserved

        empty = "none: `agentflow standalone` or `agentflow scheduler` starts one"
        output.print_table(_COLUMNS, found["items"], empty=empty)
        for one in found["unserved"]:
            output.note(describe_unserved(one))

    output.emit({**found, "next_cursor": None}, as_json=json, human=human)

"""`agentflow events`: the audit log."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

_COLUMNS = [
    Column("AT", lambda row: output.short_time(row["at"]), keep=5),
    Column("ACTOR", lambda row: row["actor"], keep=6),
    Column("ACTION", lambda row: row["action"], keep=8),
    Column("SUBJECT", lambda row: row["subject"], keep=7),
    Column("DETAIL", lambda row: json_module.dumps(row["detail"], ensure_ascii=False) if row["detail"] else "", keep=2),
]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("events", rich_help_panel=output.RUNS)(events)


def events(
    *,
    subject: Annotated[str | None, typer.Option(help="Only of this run, workflow, pool, …")] = None,
    action: Annotated[str | None, typer.Option(help="Only this: run.cleared, or run for all of its kind.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this one: cli:ada, system, …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show who did what, the newest first."""
    with context.api() as api:
        found = api.system.events(subject=subject, action=action, actor=actor, limit=limit, cursor=cursor)

    def human() -> None:
        output.print_table(_COLUMNS, found["items"], empty="nothing was done yet")
        output.note_more(found["next_cursor"])

    output.emit(found, as_json=json, human=human)

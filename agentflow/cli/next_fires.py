"""`agentflow next`: when a workflow will start by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from agentflow.cli import context, output, sources
from agentflow.cli.output import Column, JsonFlag
from agentflow.cli.trigger import parse_time
from agentflow.clock import iso, utc_now
from agentflow.errors import UsageError

_NOTES = {
    "dst-gap": "the clock skips this time: it runs right after",
    "dst-overlap": "the clock shows this time twice: it runs once",
}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("next", rich_help_panel=output.RUNS)(next_fires)


def next_fires(
    target: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A stored workflow, or a workflow file.")],
    *,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Default: now. In the trigger's time zone unless it says."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show the next fire times in UTC, before jitter; changes of daylight saving time and paused triggers are marked."""
    from agentflow.triggers import CLOCKLESS, InvalidTrigger, upcoming

    if from_:
        parse_time(from_, option="--from")  # also where no trigger has a clock
    triggers = [trigger for trigger in _triggers(target) if trigger["type"] not in CLOCKLESS]
    try:
        fires = upcoming(triggers, count, from_ or utc_now())
    except InvalidTrigger as error:
        if not from_ or error.problems[0].path != "from":
            raise
        raise UsageError(f"--{error}", hint=error.hint) from error
    items = [
        {"at": iso(fire.at), "trigger": fire.trigger, "note": fire.note} | ({"paused": True} if fire.paused else {})
        for fire in fires
    ]
    empty = "no fire times are left" if triggers else "no trigger of this workflow has a clock"
    output.emit({"items": items}, as_json=json, human=lambda: output.print_table(_COLUMNS, items, empty=empty))


def _triggers(target: str) -> list[dict[str, Any]]:
    if sources.looks_like_file(target):
        from agentflow.spec import to_document

        document = to_document(sources.load_one(target, context.settings().dags_path))
    else:
        with context.api() as api:
            shown = api.workflows.get(target)
        document = shown["spec"]
        if shown["paused"]:
            output.note(f"{target} is paused: nothing fires until `agentflow workflows unpause {target}`")
        elif shown["missing"]:
            output.note(f"the file of {target} is gone: nothing fires until it is back")
    return list(document.get("triggers", []))


def _weekday(row: output.Document) -> str:
    return datetime.fromisoformat(row["at"]).astimezone(UTC).strftime("%a")


def _remark(row: output.Document) -> str:
    paused = "paused" if row.get("paused") else ""
    change = _NOTES.get(row["note"], row["note"]) if row["note"] else ""
    return "; ".join(part for part in (paused, change) if part)


_COLUMNS = [
    Column("AT", lambda row: output.short_time(row["at"]), keep=9),
    Column("DAY", _weekday, keep=3),
    Column("TRIGGER", lambda row: row["trigger"], keep=5),
    Column("NOTE", _remark, keep=4),
]

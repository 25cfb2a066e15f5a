"""`agentflow backfill NAME --from DATE --to DATE`, and `backfill list|show|pause|unpause|cancel`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agentflow.cli import context, output, style
from agentflow.cli.output import Column, JsonFlag
from agentflow.states import BackfillState, Reprocess

CREATE = "create"


class BackfillGroup(TyperGroup):
    """A group whose first word may also be the name of a workflow: then `create` is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the word in that people leave out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [CREATE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="backfill",
    cls=BackfillGroup,
    help="Run the past dates of a trigger: `agentflow backfill NAME --from DATE --to DATE`; list, show, pause, cancel.",
)
BackfillId = Annotated[str, typer.Argument(metavar="ID", help="Id of the backfill.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command(CREATE)
def create(
    name: Annotated[str, typer.Argument(help="Name of the workflow.")],
    *,
    from_: Annotated[str, typer.Option("--from", metavar="DATE", help="First date, in the trigger's time zone.")],
    to: Annotated[str, typer.Option("--to", metavar="DATE", help="Last date, included; without a time its whole day.")],
    trigger: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose dates, if several triggers have a clock.")
    ] = None,
    reprocess: Annotated[
        Reprocess, typer.Option(help="Which dates that have a run already are run again.")
    ] = Reprocess.NONE,
    reverse: Annotated[bool, typer.Option("--reverse", help="The latest date first.")] = False,
    max_active_runs: Annotated[
        int | None, typer.Option(metavar="N", help="Runs of it at once. Default: the workflow's own limit.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A param of its runs; K=@FILE reads JSON. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how many and which dates.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also with more than 100,000 dates.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run the past dates of a trigger. `agentflow backfill NAME …` is the same."""
    with context.api() as api:
        from agentflow import spec

        schema = api.workflows.export(name).get("params", {})
        asked: dict[str, Any] = {
            "from_": from_,
            "to": to,
            "trigger": trigger,
            "reprocess": reprocess.value,
            "reverse": reverse,
            "max_active_runs": max_active_runs,
            "params": spec.read_cli_params(schema, param or [], partial=True),
        }
        make = partial(api.backfills.create, confirmed=yes)
        document: output.Document = api.backfills.preview(name, **asked) if dry_run else make(name, **asked)
    if document.get("paused"):
        output.note(f"{name} is paused: nothing runs until `agentflow workflows unpause {name}`")
    output.emit(
        document,
        as_json=json,
        human=lambda: _print_preview(document) if dry_run else output.say(document["id"]),
    )


@app.command("list")
def list_all(
    *,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    state: Annotated[BackfillState | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 25,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    json: JsonFlag = False,
) -> None:
    """List backfills, the newest first."""
    with context.api() as api:
        found = api.backfills.page(workflow=workflow, state=state, limit=limit, cursor=cursor)

    def human() -> None:
        empty = "no backfills yet: `agentflow backfill NAME --from DATE --to DATE`"
        output.print_table(_COLUMNS, found["items"], empty=empty)
        output.note_more(found["next_cursor"])

    output.emit(found, as_json=json, human=human)


@app.command()
def show(backfill_id: BackfillId, *, json: JsonFlag = False) -> None:
    """Show one backfill and how far it has come."""
    with context.api() as api:
        document = api.backfills.get(backfill_id)
    output.emit(document, as_json=json, human=lambda: _print_backfill(document))


@app.command()
def pause(backfill_id: BackfillId, *, json: JsonFlag = False) -> None:
    """Let it start no more runs; those that run go on."""
    _set_paused(backfill_id, paused=True, json=json)


@app.command()
def unpause(backfill_id: BackfillId, *, json: JsonFlag = False) -> None:
    """Let it go on."""
    _set_paused(backfill_id, paused=False, json=json)


def _set_paused(backfill_id: str, *, paused: bool, json: bool) -> None:
    with context.api() as api:
        result = api.backfills.pause(backfill_id) if paused else api.backfills.unpause(backfill_id)
    word = "paused" if paused else "unpaused"
    text = f"{backfill_id} {word if result['changed'] else f'was {word} already'}"
    output.emit(result, as_json=json, human=lambda: output.say(text))


@app.command()
def cancel(
    backfill_id: BackfillId,
    *,
    running: Annotated[bool, typer.Option("--running", help="Cancel its running runs too.")] = False,
    json: JsonFlag = False,
) -> None:
    """End it: no more runs are made, and those that wait are cancelled."""
    with context.api() as api:
        result = api.backfills.cancel(backfill_id, running=running)
    told = f"is cancelled, and {result['cancelled']} runs with it" if result["changed"] else "has ended already"
    output.emit(result, as_json=json, human=lambda: output.say(f"{backfill_id} {told}"))


def _state(row: output.Document) -> Any:
    return style.state_text(row["state"], encoding=output.stdout().encoding)


def _progress(row: output.Document) -> str:
    counts = row["counts"]
    return f"{counts['done'] + counts['skipped']:,}/{counts['total']:,}"


_COLUMNS = [
    Column("ID", lambda row: row["id"], keep=9),
    Column("STATE", _state, keep=8),
    Column("WORKFLOW", lambda row: row["workflow"], keep=7),
    Column("DONE", _progress, keep=6, right=True),
    Column("FAILED", lambda row: f"{row['counts']['failed']:,}", keep=5, right=True),
    Column("FROM", lambda row: output.short_time(row["from"]), keep=4),
    Column("TO", lambda row: output.short_time(row["to"]), keep=4),
    Column("TRIGGER", lambda row: row["trigger"], keep=3),
    Column("CREATED", lambda row: output.short_time(row["created_at"]), keep=2),
    Column("BY", lambda row: row["created_by"], keep=1),
]


def _print_backfill(document: output.Document) -> None:
    import json

    counts = document["counts"]
    order = ", the latest first" if document["reverse"] else ""
    output.print_fields(
        [
            ("backfill", document["id"]),
            ("workflow", f"{document['workflow']}  version {document['version']}"),
            ("state", _state(document)),
            ("trigger", document["trigger"]),
            ("from", document["from"]),
            ("to", f"{document['to']}{order}"),
            ("dates", f"{counts['total']:,}: {counts['skipped']:,} kept their run, {counts['left']:,} left"),
            ("runs", ", ".join(f"{counts[state]:,} {state}" for state in _STATES if counts[state]) or "none yet"),
            ("reprocess", document["reprocess"]),
            ("at once", str(document["max_active_runs"])),
            ("params", json.dumps(document["params"], ensure_ascii=False)),
            ("created", f"{document['created_at']} by {document['created_by']}"),
            ("finished", document["finished_at"]),
        ]
    )
    output.note(f"its runs: agentflow runs list --backfill {document['id']}")


_STATES = ("queued", "running", "success", "failed", "cancelled")


def _has(row: output.Document) -> Any:
    return style.state_text(row["state"], encoding=output.stdout().encoding) if row["state"] else ""


_DATES = [
    Column("DATE", lambda row: output.short_time(row["logical_date"]), keep=9),
    Column("", lambda row: "keeps its run" if row["action"] == "skip" else "", keep=8),
    Column("LATEST RUN", _has, keep=5),
    Column("ID", lambda row: row["run"] or "", keep=3),
]


def _print_preview(document: output.Document) -> None:
    output.print_table(_DATES, document["items"], empty="no dates")
    if document["more"]:
        output.say(f"… and {document['more']:,} more")
    skipped = f", {document['skipped']:,} dates keep theirs" if document["skipped"] else ""
    output.say(f"{document['runs']:,} runs of version {document['version']}{skipped}")

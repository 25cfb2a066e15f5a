"""`agentflow runs list|show|wait`; what changes runs is in `run_actions`."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output, run_actions, run_output
from agentflow.cli.output import JsonFlag
from agentflow.cli.run_actions import RunId
from agentflow.states import RunState, TriggeredBy

app = typer.Typer(name="runs", help="Runs: list, show, cancel, clear, wait and more.")


def register(root: typer.Typer) -> None:
    """Add this group."""
    run_actions.register(app)
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(
    *,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    state: Annotated[RunState | None, typer.Option(help="Only runs in this state.")] = None,
    triggered_by: Annotated[TriggeredBy | None, typer.Option(help="Only runs started by this.")] = None,
    backfill: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of this backfill.")] = None,
    search: Annotated[
        str | None, typer.Option(help="Words of the note, the params or the workflow's name; or the begin of an id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 25,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    hidden: Annotated[bool, typer.Option("--all", help="Runs of `agentflow run FILE` too.")] = False,
    json: JsonFlag = False,
) -> None:
    """List runs, the newest first."""
    with context.api() as api:
        found = api.runs.page(
            workflow=workflow,
            states=[state] if state else [],
            triggered_by=[triggered_by] if triggered_by else [],
            search=search,
            backfill=backfill,
            limit=limit,
            cursor=cursor,
            hidden=hidden,
        )

    def human() -> None:
        output.print_table(run_output.RUN_COLUMNS, found["items"], empty="no runs yet: `agentflow trigger NAME`")
        output.note_more(found["next_cursor"])

    output.emit(found, as_json=json, human=human)


@app.command()
def show(
    run_id: RunId,
    address: Annotated[
        str | None, typer.Argument(help="Only this node, index or sub-run: fetch, fetch[3], loop.sub[2].")
    ] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Show a run with its nodes."""
    with context.api() as api:
        document = api.runs.show(run_id, address)
    output.emit(document, as_json=json, human=lambda: run_output.print_run(document))


@app.command()
def wait(run_id: RunId, *, json: JsonFlag = False) -> None:
    """Show progress until the run ends; exit 1 for anything but success."""
    with context.api() as api:
        run_output.finish(run_output.follow(api, run_id, goes_on=True), as_json=json)

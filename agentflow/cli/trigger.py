"""`agentflow trigger`: start a run of a stored workflow, and wait for its end if asked to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from agentflow.cli import context, output, run_output
from agentflow.cli.output import JsonFlag
from agentflow.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=output.RUNS)(trigger)


def trigger(
    name: Annotated[str, typer.Argument(help="Name of the workflow.")],
    *,
    param: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A param; K=@FILE reads JSON. Repeatable.")
    ] = None,
    logical_date: Annotated[
        str | None, typer.Option(metavar="TIME", help="The date the run stands for; ISO 8601, UTC unless it says.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="A remark kept with the run.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress until the run ends; exit 1 unless success.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Start a run and print its id."""
    date = parse_time(logical_date, option="--logical-date") if logical_date else None
    with context.api() as api:
        from agentflow.spec import read_cli_params

        params = read_cli_params(api.workflows.export(name).get("params", {}), param or [])
        run = api.runs.create(name, params, logical_date=date, note=note)
        if run.get("paused"):
            output.note(f"{name} is paused: the run stays queued until `agentflow workflows unpause {name}`")
        if wait and not json:
            output.say(run["id"])
        if wait and not run.get("paused"):
            run_output.finish(run_output.follow(api, run["id"], goes_on=True), as_json=json)
    output.emit(run, as_json=json, human=lambda: None if wait else output.say(run["id"]))
    if wait:
        raise typer.Exit(1)


def parse_time(text: str, *, option: str) -> datetime:
    """A time given by hand; without an offset it is in UTC.

    Raises:
        UsageError: It is not ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option}: {text!r} is not a time", hint="write 2026-11-22 or 2026-11-22T06:00:00+01:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

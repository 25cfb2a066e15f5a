"""`agentflow db`: the schema of the database and its address."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag
from agentflow.clock import iso
from agentflow.durations import parse_duration
from agentflow.errors import UsageError

app = typer.Typer(name="db", help="The database: upgrade and check its schema, prune its history, print its address.")


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.SYSTEM)


@app.command()
def upgrade(*, json: JsonFlag = False) -> None:
    """Bring the schema to the one this version needs."""
    context.require_database("agentflow db")
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        before = session.do(migrate.current)
        context.upgrade(session.url)
        after = session.do(migrate.current)
    document = {"changed": before != after, "from": before, "to": after}
    text = f"upgraded to {after}" if document["changed"] else f"at {after} already"
    output.emit(document, as_json=json, human=lambda: output.say(text))


@app.command()
def prune(
    *,
    older_than: Annotated[str, typer.Option(metavar="DURATION", help="Keep what is younger: 90d.")],
    archive: Annotated[
        bool | None,
        typer.Option("--archive/--no-archive", help="Rows go to the object store first. Default: AGENTFLOW_ARCHIVE."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be dropped.")] = False,
    json: JsonFlag = False,
) -> None:
    """Drop months of history whose runs have all ended. Runs go on meanwhile."""
    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from error
    context.require_database("agentflow db")
    with context.session() as session:
        from agentflow.objects.store import open_store
        from agentflow.retention import Pruner

        wanted = session.settings.archive if archive is None else archive
        pruner = Pruner(session.engine, open_store(session.settings), actor=session.actor, archive=wanted)
        document = pruner.prune(age, dry_run=dry_run)
    document["cutoff"] = iso(document["cutoff"])
    output.emit(document, as_json=json, human=lambda: _print_pruned(document))
    if any(month["state"] == "busy" for month in document["months"]):
        raise typer.Exit(1)


def _print_pruned(document: dict[str, Any]) -> None:
    output.print_table(_MONTHS, document["months"], empty=f"no month has ended before {document['cutoff'][:10]}")
    for month in document["months"]:
        for run in month["open"]:
            output.note(f"{month['month']} is kept by {run['id']} of {run['workflow']}, which is {run['state']}")
        if month["state"] == "busy":
            output.note(f"{month['month']}: its tables were in use all the time; try again")
    what = "would be deleted" if document["dry_run"] else "deleted"
    output.note(f"{document['audit_events']} audit events and {document['fires']} fires {what}")


_MONTHS = [
    Column("MONTH", lambda row: row["month"], keep=9),
    Column("STATE", lambda row: row["state"], keep=8),
    Column("RUNS", lambda row: "" if row["runs"] is None else str(row["runs"])),
    Column("MIB", lambda row: f"{row['bytes'] / 2**20:.1f}"),
    Column("ARCHIVED", lambda row: "yes" if row["archived"] else ""),
]


@app.command()
def check(*, json: JsonFlag = False) -> None:
    """Exit 1 unless the schema is the one this version needs."""
    context.require_database("agentflow db")
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        found, needed = session.do(migrate.current), migrate.head()
    ready = found == needed
    document = {"ready": ready, "current": found, "needed": needed}
    text = f"ready, at {found}" if ready else f"at {found or 'no schema'}, {needed} is needed: `agentflow db upgrade`"
    output.emit(document, as_json=json, human=lambda: output.say(text))
    if not ready:
        raise typer.Exit(1)


@app.command()
def current(*, json: JsonFlag = False) -> None:
    """Print the revision the schema is at."""
    context.require_database("agentflow db")
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        found = session.do(migrate.current)
    output.emit({"current": found}, as_json=json, human=lambda: output.say(found or "no schema"))


@app.command()
def url(*, json: JsonFlag = False) -> None:
    """Print the address of the database, password included, for psql and other tools."""
    context.require_database("agentflow db")
    with context.session(migrate=False) as session:
        from agentflow.postgres import libpq_url

        address = libpq_url(session.url)
        embedded = not session.settings.database_url
    if embedded and not json:
        output.note("the embedded server runs only while AgentFlow does: keep `agentflow standalone` open")
    output.emit({"url": address, "embedded": embedded}, as_json=json, human=lambda: typer.echo(address))

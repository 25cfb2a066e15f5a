"""`agentflow workflows`: list, show, pause, unpause, delete."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentflow.cli import context, output, style
from agentflow.cli.output import Column, JsonFlag

app = typer.Typer(name="workflows", help="Stored workflows: list, show, pause, delete.")
Name = Annotated[str, typer.Argument(help="Name of the workflow.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List the workflows with their next fire and latest run."""
    with context.api() as api:
        items = list(api.workflows.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no workflows yet: `agentflow apply FILE`"),
    )


@app.command()
def show(name: Name, *, json: JsonFlag = False) -> None:
    """Show one workflow."""
    with context.api() as api:
        document = api.workflows.get(name)
    output.emit(document, as_json=json, human=lambda: _print_workflow(document))


@app.command()
def pause(name: Name, *, json: JsonFlag = False) -> None:
    """Stop its triggers and claims; attempts that are out already finish."""
    _set_paused(name, paused=True, json=json)


@app.command()
def unpause(name: Name, *, json: JsonFlag = False) -> None:
    """Let it fire and run again; fires missed meanwhile are not made up."""
    _set_paused(name, paused=False, json=json)


def _set_paused(name: str, *, paused: bool, json: bool) -> None:
    with context.api() as api:
        result = api.workflows.pause(name) if paused else api.workflows.unpause(name)
    document = output.action("name", name, result)
    word = "paused" if paused else "unpaused"
    output.emit(
        document,
        as_json=json,
        human=lambda: output.say(f"{name} {word if document['changed'] else f'was {word} already'}"),
    )


@app.command()
def delete(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete a workflow with its versions; refused while runs are open."""
    if not yes and not json:
        output.confirm(f"Delete {name} and its history?")
    with context.api() as api:
        result = api.workflows.delete(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} deleted"))


def _latest(row: output.Document) -> Any:
    latest = row.get("latest_run")
    return style.state_text(latest["state"], encoding=output.stdout().encoding) if latest else None


def _paused(row: output.Document) -> str:
    if not row["paused"]:
        return ""
    return "after failures" if row.get("pause_reason") else "paused"


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("VERSION", lambda row: str(row["version"]), keep=4, right=True),
    Column("PAUSED", _paused, keep=6),
    Column("LATEST RUN", _latest, keep=8),
    Column("NEXT FIRE", lambda row: output.short_time(row.get("next_fire")), keep=7),
    Column("SOURCE", lambda row: row["source"], keep=2),
    Column("TAGS", lambda row: " ".join(row.get("tags") or []), keep=1),
    Column("TITLE", lambda row: row.get("title"), keep=3),
]


def _print_workflow(document: output.Document) -> None:
    latest = document.get("latest_run")
    output.print_fields(
        [
            ("name", document["name"]),
            ("title", document.get("title")),
            ("version", str(document["version"])),
            ("source", document["source"]),
            ("file", document.get("source_path")),
            ("paused", (document["pause_reason"] or "yes") if document["paused"] else "no"),
            ("missing", "its file is gone: it does not fire" if document.get("missing") else None),
            ("tags", " ".join(document.get("tags") or [])),
            ("next fire", document.get("next_fire")),
            ("latest run", f"{latest['id']}  {latest['state']}" if latest else None),
        ]
    )

"""`agentflow pools`: named limits on how many node runs go at once."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

app = typer.Typer(name="pools", help="Pools: named limits on node runs at once.")
Name = Annotated[str, typer.Argument(help="Name of the pool.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List the pools."""
    with context.api() as api:
        items = list(api.pools.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no pools"),
    )


@app.command("set")
def set_one(
    name: Name,
    slots: Annotated[int, typer.Argument(min=0, help="Node runs at once; 0 stops new ones.")],
    *,
    description: Annotated[str | None, typer.Option(help="What it protects.")] = None,
    json: JsonFlag = False,
) -> None:
    """Create a pool or change it."""
    with context.api() as api:
        result = api.pools.set(name, slots, description=description)
    output.emit(
        output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} has {slots} slots")
    )


@app.command()
def delete(name: Name, *, json: JsonFlag = False) -> None:
    """Delete a pool that no workflow uses."""
    with context.api() as api:
        result = api.pools.delete(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} deleted"))


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("SLOTS", lambda row: str(row["slots"]), keep=8, right=True),
    Column("USED", lambda row: str(row["used"]), keep=7, right=True),
    Column("DESCRIPTION", lambda row: row.get("description"), keep=1),
]

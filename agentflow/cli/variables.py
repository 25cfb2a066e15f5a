"""`agentflow variables`: values that templates read as `vars.<name>`."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag
from agentflow.errors import UsageError

app = typer.Typer(name="variables", help="Variables: values that templates read as vars.NAME.")
Name = Annotated[str, typer.Argument(help="Name of the variable.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List the variables."""
    with context.api() as api:
        items = list(api.variables.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no variables"),
    )


@app.command("set")
def set_one(
    name: Name,
    value: Annotated[str, typer.Argument(help="The text, or JSON with --as-json.")],
    *,
    as_json: Annotated[bool, typer.Option("--as-json", help="The value is JSON: a number, a list, an object.")] = False,
    json: JsonFlag = False,
) -> None:
    """Create a variable or change it."""
    content = read_value(value) if as_json else value
    with context.api() as api:
        result = api.variables.set(name, content)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} set"))


@app.command()
def delete(name: Name, *, json: JsonFlag = False) -> None:
    """Delete a variable; nodes that read it fail from then on."""
    with context.api() as api:
        result = api.variables.delete(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} deleted"))


def read_value(text: str) -> Any:
    """The value that JSON text means.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        return json_module.loads(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not JSON: {error}", hint="leave --as-json out to store it as text") from error


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("VALUE", lambda row: json_module.dumps(row["value"], ensure_ascii=False), keep=5),
    Column("UPDATED", lambda row: output.short_time(row.get("updated_at")), keep=1),
]

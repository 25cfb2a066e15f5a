"""`agentflow connections`: how to reach other systems; plain fields can be read back, secret ones cannot."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agentflow.cli import context, output, secret_input
from agentflow.cli.output import Column, JsonFlag
from agentflow.cli.secrets import require_key
from agentflow.errors import UsageError

app = typer.Typer(
    name="connections", help="Connections: how to reach other systems; their secret fields are write-only."
)
Name = Annotated[str, typer.Argument(help="Name of the connection.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List the connections with their plain fields and the names of their secret ones."""
    with context.api() as api:
        items = list(api.connections.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no connections"),
    )


@app.command("set")
def set_one(
    name: Name,
    *,
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="What it connects to: http, postgres, …")],  # noqa: A002 - becomes the option's name
    field: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A plain field. Repeatable.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="K[=@FILE]", help="A secret field, asked for or read from a file. Repeatable."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Create a connection or replace it whole: fields that are not given are gone."""
    plain = read_fields(field or [])
    files = read_secret_fields(secret or [])
    with context.api() as api:
        if files:
            require_key(api)
        values = {key: secret_input.read_secret(f"{name}.{key}", file) for key, file in files.items()}
        result = api.connections.set(name, type=type, config=plain, secrets=values)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} set"))


@app.command()
def delete(name: Name, *, json: JsonFlag = False) -> None:
    """Delete a connection."""
    with context.api() as api:
        result = api.connections.delete(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} deleted"))


def read_fields(given: Sequence[str]) -> dict[str, str]:
    """`K=V` each.

    Raises:
        UsageError: One has no `=`, or is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--field {text}: write NAME=VALUE")
        if key in found:
            raise UsageError(f"--field {key} is given twice")
        found[key] = value
    return found


def read_secret_fields(given: Sequence[str]) -> dict[str, Path | None]:
    """`K` or `K=@FILE` each; where each value is to be read from, None for standard input.

    Raises:
        UsageError: A value stands on the command line, a field is given twice, or two are to come from one input.
    """
    import sys

    found: dict[str, Path | None] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if equals and not value.startswith("@"):
            raise UsageError(
                f"--secret {key}: the value of a secret field may not stand on the command line, where `ps` shows it.",
                hint=f"--secret {key} asks for it, --secret {key}=@FILE reads a file",
            )
        if key in found:
            raise UsageError(f"--secret {key} is given twice")
        found[key] = Path(value[1:]) if equals else None
    asked = [key for key, file in found.items() if file is None]
    if len(asked) > 1 and not sys.stdin.isatty():
        raise UsageError(
            f"--secret {asked[0]} and --secret {asked[1]} cannot both be read from standard input.",
            hint="read all but one from files: --secret K=@FILE",
        )
    return found


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("TYPE", lambda row: row["type"], keep=8),
    Column("FIELDS", lambda row: json_module.dumps(row["config"], ensure_ascii=False), keep=5),
    Column("SECRET FIELDS", lambda row: ", ".join(row["secret_fields"]), keep=6),
    Column("UPDATED", lambda row: output.short_time(row.get("updated_at")), keep=1),
]

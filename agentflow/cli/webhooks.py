"""`agentflow webhooks`: addresses that start runs. Tokens are shown once, when they are made."""

from __future__ import annotations

from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

app = typer.Typer(name="webhooks", help="Webhooks: addresses that start runs; tokens are shown once.")


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List webhook triggers and what is known of their tokens."""
    with context.api() as api:
        items = list(api.webhooks.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no workflow has a `{type: webhook}` trigger"),
    )


@app.command()
def rotate(
    workflow: Annotated[str, typer.Argument(help="Name of the workflow.")],
    *,
    trigger: Annotated[str | None, typer.Option(help="Name of the trigger, if there are several webhooks.")] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Deliveries must be signed; prints a signing secret too.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make a token, the first one or a new one; the one before is dead at once."""
    with context.api() as api:
        document = api.webhooks.rotate(workflow, trigger, signed=signed)

    def human() -> None:
        output.print_fields([("address", document["path"]), ("signing secret", document["signing_secret"])])
        output.note("this is shown once: keep it where the sender keeps its secrets")

    output.emit(document, as_json=json, human=human)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="As `webhooks list` shows it: workflow/trigger.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Forget a token: its address answers 404."""
    with context.api() as api:
        result = api.webhooks.revoke(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} revoked"))


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("TOKEN", lambda row: f"{row['prefix']}…" if row["prefix"] else "none", keep=6),
    Column("SIGNED", lambda row: "yes" if row["signed"] else "no", keep=5),
    Column("PAUSED", lambda row: "yes" if row["paused"] else "no", keep=4),
    Column("ROTATED", lambda row: output.short_time(row["rotated_at"]), keep=2),
    Column("USED", lambda row: output.short_time(row["used_at"]), keep=3),
]

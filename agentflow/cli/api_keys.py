"""`agentflow api-keys` and `agentflow workspaces`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag
from agentflow.clock import utc_now
from agentflow.errors import UsageError

app = typer.Typer(name="api-keys", help="API keys: what programs send instead of logging in.")
workspaces_app = typer.Typer(name="workspaces", help="Workspaces: tenants that see nothing of each other.")


def register(root: typer.Typer) -> None:
    """Add these groups."""
    root.add_typer(app, rich_help_panel=output.SYSTEM)
    root.add_typer(workspaces_app, rich_help_panel=output.SYSTEM)


@app.command("list")
def list_all(
    *,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked.")] = False,
    json: JsonFlag = False,
) -> None:
    """List the keys of AGENTFLOW_WORKSPACE, without themselves."""
    with context.api() as api:
        items = list(api.api_keys.list(revoked=revoked))
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no keys"),
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    scope: Annotated[list[str], typer.Option(help="read, run, edit or admin; may be repeated.")],
    user: Annotated[
        str | None, typer.Option(help="Whose key it is: it does no more than they may. Default: nobody's.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After this time it stops: 30d, 12h.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make a key for AGENTFLOW_WORKSPACE. It is printed once and cannot be shown again."""
    end = None if expires is None else utc_now() + _duration(expires)
    with context.api() as api:
        from agentflow.client import Client

        if user is None:
            made: output.Document = api.api_keys.create(name, scopes=scope, expires_at=end)
        elif isinstance(api, Client):
            raise UsageError("Through a webserver keys are made for nobody.", hint="leave out --user")
        else:
            made = api.api_keys.create(name, scopes=scope, expires_at=end, user=user)
    output.emit(made, as_json=json, human=lambda: output.say(made["key"]))


def _duration(text: str) -> timedelta:
    from agentflow.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="Name of the key.")], *, json: JsonFlag = False) -> None:
    """Stop a key for good."""
    with context.api() as api:
        result = api.api_keys.revoke(name)
    output.emit(result, as_json=json, human=lambda: output.say(f"{name} revoked"))


@workspaces_app.command("list")
def list_workspaces(*, json: JsonFlag = False) -> None:
    """List the workspaces."""
    with context.api() as api:
        items = list(api.workspaces.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_WORKSPACE_COLUMNS, items, empty="no workspaces"),
    )


@workspaces_app.command("create")
def create_workspace(
    name: Annotated[str, typer.Argument(help="Small letters, digits, _ and -.")], *, json: JsonFlag = False
) -> None:
    """Make a workspace, with a default pool."""
    with context.api() as api:
        result = api.workspaces.create(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} created"))


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("KEY", lambda row: f"{row['prefix']}…", keep=7),
    Column("SCOPES", lambda row: ", ".join(row["scopes"]), keep=8),
    Column("USER", lambda row: row["user"], keep=4),
    Column("USED", lambda row: output.short_time(row["used_at"]), keep=3),
    Column("EXPIRES", lambda row: output.short_time(row["expires_at"]), keep=5),
    Column("REVOKED", lambda row: output.short_time(row["revoked_at"]), keep=2),
]
_WORKSPACE_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("MEMBERS", lambda row: str(row["members"]), keep=5, right=True),
    Column("CREATED", lambda row: output.short_time(row["created_at"]), keep=1),
]

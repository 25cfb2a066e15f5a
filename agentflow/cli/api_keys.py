"""`agentflow api-keys` and `agentflow workspaces`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

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
    with context.session() as session:
        from agentflow.access import api_keys

        items, following = session.do(
            lambda connection: api_keys.list_api_keys(
                connection, workspace=session.workspace, revoked=revoked, limit=1000
            )
        )
    output.emit(
        {"items": items, "next_cursor": following},
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
    with context.session() as session:
        from agentflow.access import api_keys
        from agentflow.access.accounts import user_id
        from agentflow.clock import utc_now

        now = utc_now()
        made = session.do(
            lambda connection: api_keys.create_api_key(
                connection,
                name,
                scopes=scope,
                user=None if user is None else user_id(connection, user),
                expires_at=None if expires is None else now + _duration(expires),
                now=now,
                actor=session.actor,
                workspace=session.workspace,
            )
        )
    output.emit(made, as_json=json, human=lambda: output.say(made["key"]))


def _duration(text: str) -> timedelta:
    from agentflow.durations import parse_duration
    from agentflow.errors import UsageError

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="Name of the key.")], *, json: JsonFlag = False) -> None:
    """Stop a key for good."""
    with context.session() as session:
        from agentflow.access import api_keys

        result = session.do(
            lambda connection: api_keys.revoke_api_key(
                connection,
                api_keys.api_key_id(connection, name, workspace=session.workspace),
                actor=session.actor,
                workspace=session.workspace,
            )
        )
    output.emit(result, as_json=json, human=lambda: output.say(f"{name} revoked"))


@workspaces_app.command("list")
def list_workspaces(*, json: JsonFlag = False) -> None:
    """List the workspaces."""
    with context.session() as session:
        from agentflow.access import workspaces

        items = session.do(lambda connection: workspaces.list_workspaces(connection, everything=True))
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
    with context.session() as session:
        from agentflow.access import workspaces

        result = session.do(lambda connection: workspaces.create_workspace(connection, name, actor=session.actor))
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

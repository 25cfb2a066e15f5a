"""`agentflow users`: who may log in to the webserver, and with which role where."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.cli.context import Api
    from agentflow.cli.local import LocalApi

app = typer.Typer(name="users", help="Users of the webserver: their passwords and roles.")
Email = Annotated[str, typer.Argument(help="Address of the user.")]
RoleOption = Annotated[
    str | None, typer.Option("--role", help="In AGENTFLOW_WORKSPACE: viewer, operator, editor or admin.")
]
LinkFlag = Annotated[
    bool, typer.Option("--link", help="Instead of asking for a password, print a one-time link's token that sets one.")
]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.SYSTEM)


@app.command("list")
def list_all(
    *,
    members: Annotated[bool, typer.Option("--members", help="Only those with a role in AGENTFLOW_WORKSPACE.")] = False,
    json: JsonFlag = False,
) -> None:
    """List the users of the instance."""
    with context.api() as api:
        items = list(api.users.list(members=members))
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no users"),
    )


@app.command()
def create(
    email: Email,
    *,
    role: RoleOption = None,
    name: Annotated[str, typer.Option(help="Shown to others.")] = "",
    instance_admin: Annotated[
        bool, typer.Option("--instance-admin", help="May do everything in every workspace.")
    ] = False,
    link: LinkFlag = False,
    json: JsonFlag = False,
) -> None:
    """Make a user. The password comes from a hidden prompt or standard input, never from the command line."""
    with context.api() as api:
        from agentflow.access.accounts import read_email

        address, wanted = read_email(email), _role(role)  # before anybody is asked for a password
        _link_only(api, link=link)
        make = api.users.create if link else partial(_local(api).users.create, password=_read_password(address))
        made: dict[str, Any] = dict(make(address, role=wanted, name=name, instance_admin=instance_admin))
    if link:
        made["link"] = made["link"]["token"]
    output.emit(output.action("id", made["id"], made), as_json=json, human=lambda: _say_made(address, made))


@app.command()
def disable(email: Email, *, json: JsonFlag = False) -> None:
    """Shut a user out: no login, no session, no key of theirs works any more."""
    _change(email, "disabled", json=json, disabled=True)


@app.command()
def enable(email: Email, *, json: JsonFlag = False) -> None:
    """Let a disabled user in again."""
    _change(email, "enabled", json=json, disabled=False)


@app.command("reset-password")
def reset_password(email: Email, *, link: LinkFlag = False, json: JsonFlag = False) -> None:
    """Give a user another password and end their sessions. It comes from a hidden prompt or standard input."""
    with context.api() as api:
        _link_only(api, link=link)
        if link:
            result = api.users.reset_password(email)
        else:
            local = _local(api)
            local.users.find(email)  # before anybody is asked for a password
            result = local.users.reset_password(email, _read_password(email))
    output.emit(
        result,
        as_json=json,
        human=lambda: output.say(result["link"] if link else f"{email} has another password"),
    )


@app.command()
def grant(
    email: Email,
    role: Annotated[str, typer.Argument(help="viewer, operator, editor, admin; none takes the role away.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Give a user a role in AGENTFLOW_WORKSPACE, in place of the one they had."""
    wanted = None if role == "none" else _role(role)
    with context.api() as api:
        result = api.users.grant(email, wanted)
    output.emit(result, as_json=json, human=lambda: output.say(f"{email}: {role} in {result['workspace']}"))


def _change(email: str, word: str, *, json: bool, disabled: bool) -> None:
    with context.api() as api:
        made = api.users.set_disabled(email, disabled=disabled)
    output.emit({"id": made["id"], "changed": True}, as_json=json, human=lambda: output.say(f"{made['email']} {word}"))


def _link_only(api: Api, *, link: bool) -> None:
    """Passwords of others do not go through a webserver: a link lets them set their own.

    Raises:
        UsageError: It would.
    """
    from agentflow.client import Client

    if isinstance(api, Client) and not link:
        raise UsageError(
            "Through a webserver nobody sets another one's password.", hint="--link prints a link that does"
        )


def _local(api: Api) -> LocalApi:
    from agentflow.cli.local import LocalApi

    assert isinstance(api, LocalApi)
    return api


def _role(word: str | None) -> str | None:
    from agentflow.access import Role

    try:
        return None if word is None else Role(word).value
    except ValueError:
        raise UsageError(f"{word!r} is not a role.", hint="viewer, operator, editor or admin") from None


def _read_password(email: str) -> str:
    from agentflow.access.passwords import check_password
    from agentflow.cli.secret_input import read_secret

    password = read_secret(f"the password of {email}" if sys.stdin.isatty() else "the password", None)
    check_password(password, email=email)
    return password


def _say_made(email: str, made: dict[str, Any]) -> None:
    output.say(f"{email} created")
    if "link" in made:
        output.note("to set a password, once, within 24 hours, open /login#token=… of the webserver with:")
        output.say(made["link"])


def _roles(row: output.Document) -> str:
    roles = [f"{one['workspace']}:{one['role']}" for one in row["memberships"]]
    return ", ".join((["instance admin"] if row["instance_admin"] else []) + roles)


_COLUMNS = [
    Column("EMAIL", lambda row: row["email"], keep=9),
    Column("NAME", lambda row: row["name"], keep=2),
    Column("ROLES", _roles, keep=7),
    Column("STATE", lambda row: "disabled" if row["disabled"] else "active", keep=5),
    Column("CREATED", lambda row: output.short_time(row["created_at"]), keep=1),
]

"""`agentflow users`: who may log in to the webserver, and with which role where."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
    with context.session() as session:
        from agentflow.access import users

        where = session.workspace if members else None
        items, following = session.do(lambda connection: users.list_users(connection, workspace=where, limit=1000))
    output.emit(
        {"items": items, "next_cursor": following},
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
    with context.session() as session:
        from agentflow.access import links, users, workspaces
        from agentflow.access.accounts import read_email
        from agentflow.clock import utc_now

        address, wanted = read_email(email), _role(role)  # before anybody is asked for a password
        password = None if link else _read_password(address)

        def make(connection: Connection) -> dict[str, Any]:
            made = users.create_user(
                connection,
                address,
                name=name,
                password=password,
                instance_admin=instance_admin,
                actor=session.actor,
            )
            if wanted is not None:
                workspaces.grant_role(connection, made["id"], session.workspace, wanted, actor=session.actor)
            if link:
                token = links.make_link(connection, made["id"], "reset", now=utc_now(), actor=session.actor)["token"]
                return made | {"link": token}
            return made

        made = session.do(make)
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
    with context.session() as session:
        from agentflow.access import links, users
        from agentflow.access.accounts import user_id
        from agentflow.clock import utc_now

        user = session.do(lambda connection: user_id(connection, email))
        if link:
            made = session.do(
                lambda connection: links.make_link(connection, user, "reset", now=utc_now(), actor=session.actor)
            )
            result = {"changed": True, "link": made["token"]}
        else:
            password = _read_password(email)
            session.do(lambda connection: users.set_password(connection, user, password, actor=session.actor))
            result = {"changed": True}
    output.emit(
        output.action("id", str(user), result) | {"id": user},
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
    with context.session() as session:
        from agentflow.access import workspaces
        from agentflow.access.accounts import user_id

        wanted = None if role == "none" else _role(role)

        def change(connection: Connection) -> dict[str, Any]:
            user = user_id(connection, email)
            if wanted is None:
                return workspaces.revoke_role(connection, user, session.workspace, actor=session.actor)
            return workspaces.grant_role(connection, user, session.workspace, wanted, actor=session.actor)

        result = session.do(change)
    output.emit(result, as_json=json, human=lambda: output.say(f"{email}: {role} in {result['workspace']}"))


def _change(email: str, word: str, *, json: bool, disabled: bool) -> None:
    with context.session() as session:
        from agentflow.access import users
        from agentflow.access.accounts import user_id

        made = session.do(
            lambda connection: users.update_user(
                connection, user_id(connection, email), disabled=disabled, actor=session.actor
            )
        )
    output.emit({"id": made["id"], "changed": True}, as_json=json, human=lambda: output.say(f"{made['email']} {word}"))


def _role(word: str | None) -> Any:
    from agentflow.access import Role
    from agentflow.errors import UsageError

    try:
        return None if word is None else Role(word)
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

"""`agentflow secrets`: values that templates read as `secrets.NAME` and that nobody can read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output, secret_input
from agentflow.cli.output import Column, JsonFlag

if TYPE_CHECKING:
    from agentflow.cli.context import Api
    from agentflow.settings import Settings

app = typer.Typer(name="secrets", help="Secrets: values that templates read as secrets.NAME; write-only.")
Name = Annotated[str, typer.Argument(help="Name of the secret.")]


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.RUNS)


def require_key(api: Api) -> None:
    """Before anybody is asked for a value: there must be a key here; a webserver has its own.

    Raises:
        SettingsError: The database is an external one, and there is no key.
    """
    from agentflow.cli.local import LocalApi
    from agentflow.cli.local.group import keys_for_writing

    if isinstance(api, LocalApi):
        keys_for_writing(api.session.settings)


@app.command("list")
def list_all(*, json: JsonFlag = False) -> None:
    """List the names of the secrets; their values cannot be read back."""
    with context.api() as api:
        items = list(api.secrets.list())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no secrets"),
    )


@app.command("set")
def set_one(
    name: Name,
    *,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", metavar="FILE", help="Read the value from a file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Create a secret or change it. The value comes from a hidden prompt, standard input or a file, never from here."""
    with context.api() as api:
        from agentflow.catalog import check_name

        check_name(name, "secret")  # before anybody is asked for a value
        require_key(api)
        value = secret_input.read_secret(name, from_file)
        result = api.secrets.set(name, value)
    secret_input.warn_if_short(name, value)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} set"))


@app.command()
def delete(name: Name, *, json: JsonFlag = False) -> None:
    """Delete a secret; nodes that name it fail from then on."""
    with context.api() as api:
        result = api.secrets.delete(name)
    output.emit(output.action("name", name, result), as_json=json, human=lambda: output.say(f"{name} deleted"))


@app.command("rotate-keys")
def rotate_keys(
    *,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="First generate a new key into HOME/secret_key, in front of the old ones.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Encrypt every secret and connection with the newest key, in all workspaces; earlier keys may then be removed."""
    context.require_database("rotate-keys")
    with context.session() as session:
        from agentflow import secrets
        from agentflow.cli.local.group import keys_for_writing
        from agentflow.keys import add_key

        if new_key:
            _refuse_on_external(session.settings)
            add_key(session.settings.secret_key, session.settings.home)
        ring = keys_for_writing(session.settings)
        done = session.do(lambda connection: secrets.rotate_keys(connection, ring=ring, actor=session.actor))
    document = {"id": done.key_id, "changed": done.rewrapped > 0, "rewrapped": done.rewrapped, "unused": ring.ids[1:]}
    output.emit(document, as_json=json, human=lambda: _print_rotation(document))


def _refuse_on_external(settings: Settings) -> None:
    """A key generated here would be unknown to the other machines that use the database.

    Raises:
        SettingsError: The database is not the embedded one.
    """
    from agentflow.errors import SettingsError
    from agentflow.keys import ENVIRONMENT

    if settings.database_url:
        raise SettingsError(
            "--new-key is for the embedded database: other machines that use this one would not have the key.",
            hint=f"set {ENVIRONMENT}=NEW,OLD on every machine, then run `agentflow secrets rotate-keys`",
        )


def _print_rotation(document: dict[str, Any]) -> None:
    output.say(f"{document['rewrapped']} moved, everything is under the key {document['id']}")
    if document["unused"]:
        output.note(f"not needed any more but for backups: {', '.join(document['unused'])}")


_COLUMNS = [
    Column("NAME", lambda row: row["name"], keep=9),
    Column("KEY", lambda row: row["key_id"], keep=1),
    Column("UPDATED", lambda row: output.short_time(row.get("updated_at")), keep=5),
    Column("BY", lambda row: row["updated_by"], keep=4),
]

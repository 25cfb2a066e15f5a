"""`agentflow db`: the schema of the database and its address."""

from __future__ import annotations

import typer

from agentflow.cli import context, output
from agentflow.cli.output import JsonFlag

app = typer.Typer(name="db", help="The database: upgrade and check its schema, print its address.")


def register(root: typer.Typer) -> None:
    """Add this group."""
    root.add_typer(app, rich_help_panel=output.SYSTEM)


@app.command()
def upgrade(*, json: JsonFlag = False) -> None:
    """Bring the schema to the one this version needs."""
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        before = session.do(migrate.current)
        context.upgrade(session.url)
        after = session.do(migrate.current)
    document = {"changed": before != after, "from": before, "to": after}
    text = f"upgraded to {after}" if document["changed"] else f"at {after} already"
    output.emit(document, as_json=json, human=lambda: output.say(text))


@app.command()
def check(*, json: JsonFlag = False) -> None:
    """Exit 1 unless the schema is the one this version needs."""
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        found, needed = session.do(migrate.current), migrate.head()
    ready = found == needed
    document = {"ready": ready, "current": found, "needed": needed}
    text = f"ready, at {found}" if ready else f"at {found or 'no schema'}, {needed} is needed: `agentflow db upgrade`"
    output.emit(document, as_json=json, human=lambda: output.say(text))
    if not ready:
        raise typer.Exit(1)


@app.command()
def current(*, json: JsonFlag = False) -> None:
    """Print the revision the schema is at."""
    with context.session(migrate=False) as session:
        from agentflow.db import migrate

        found = session.do(migrate.current)
    output.emit({"current": found}, as_json=json, human=lambda: output.say(found or "no schema"))


@app.command()
def url(*, json: JsonFlag = False) -> None:
    """Print the address of the database, password included, for psql and other tools."""
    with context.session(migrate=False) as session:
        from agentflow.postgres import libpq_url

        address = libpq_url(session.url)
        embedded = not session.settings.database_url
    if embedded and not json:
        output.note("the embedded server runs only while AgentFlow does: keep `agentflow standalone` open")
    output.emit({"url": address, "embedded": embedded}, as_json=json, human=lambda: typer.echo(address))

"""`agentflow doctor`: is everything there that a run needs, and if not, what to do."""

from __future__ import annotations

import typer

from agentflow.cli import checks, context, output, style
from agentflow.cli.checks import Check
from agentflow.cli.output import JsonFlag
from agentflow.errors import DatabaseNotReady, DatabaseUnreachable, SettingsError

_STATES = {"ok": "success", "warning": "upstream_failed", "failed": "failed"}  #: Whose glyph and colour fit.


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=output.SYSTEM)(doctor)


def doctor(*, json: JsonFlag = False) -> None:
    """Check database, migrations, executors, clock and folders; say what to do."""
    found = list(checks.local_checks(context.settings()))
    code = 0
    try:
        with context.session(migrate=False) as session:
            found += checks.database_checks(session)
    except (DatabaseUnreachable, DatabaseNotReady, SettingsError) as error:
        found.append(Check("database", "failed", error.message, error.hint))
        code = error.exit_code
    healthy = all(check.status != "failed" for check in found)
    document = {"ok": healthy, "checks": [check.as_document() for check in found]}
    output.emit(document, as_json=json, human=lambda: _print_checks(found))
    if not healthy:
        raise typer.Exit(code or 1)


def _print_checks(found: list[Check]) -> None:
    from rich.text import Text

    encoding = output.stdout().encoding
    width = max(len(check.name) for check in found)
    for check in found:
        state = _STATES[check.status]
        mark = (style.glyph(state, encoding=encoding), style.look(state).style)
        output.say(Text.assemble(mark, f" {check.name:<{width}}  ", output.clean(check.detail)))
        if check.hint:
            output.say(Text(f"  {'':<{width}}  {output.clean(check.hint)}", "cyan"))

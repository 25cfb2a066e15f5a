"""`agentflow doctor`: is everything there that a run needs, and if not, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from agentflow.cli import checks, context, output, style
from agentflow.cli.checks import Check
from agentflow.cli.output import JsonFlag
from agentflow.errors import AgentFlowError, DatabaseNotReady, DatabaseUnreachable, SettingsError

if TYPE_CHECKING:
    from agentflow.settings import Settings

_STATES = {"ok": "success", "warning": "upstream_failed", "failed": "failed"}  #: Whose glyph and colour fit.


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=output.SYSTEM)(doctor)


def doctor(*, json: JsonFlag = False) -> None:
    """Check database, migrations, executors, clock and folders, or the webserver of AGENTFLOW_API_URL; say what to do."""
    settings = context.settings()
    found, code = _remote_checks(settings) if settings.api_url else _local_checks(settings)
    healthy = all(check.status != "failed" for check in found)
    document = {"ok": healthy, "checks": [check.as_document() for check in found]}
    output.emit(document, as_json=json, human=lambda: _print_checks(found))
    if not healthy:
        raise typer.Exit(code or 1)


def _local_checks(settings: Settings) -> tuple[list[Check], int]:
    """What was found, and the exit code if nothing else tells it."""
    found = list(checks.local_checks(settings))
    try:
        with context.session(migrate=False) as session:
            found += checks.database_checks(session)
    except (DatabaseUnreachable, DatabaseNotReady, SettingsError) as error:
        return [*found, Check("database", "failed", error.message, error.hint)], error.exit_code
    return found, 0


def _remote_checks(settings: Settings) -> tuple[list[Check], int]:
    from agentflow.cli.remote_checks import api_checks

    found: list[Check] = []
    try:
        with context.remote(settings) as client:
            found.extend(api_checks(client))
    except AgentFlowError as error:
        return [*found, Check("api", "failed", error.message, error.hint)], error.exit_code
    return found, 0


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

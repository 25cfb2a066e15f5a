"""`agentflow`: puts the commands together, ours and those of other packages, and turns every error into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from agentflow.cli import (
    api_keys,
    backfill,
    config,
    connections,
    database,
    doctor,
    events,
    failures,
    files,
    logs,
    next_fires,
    output,
    outputs,
    pools,
    runs,
    schedulers,
    secrets,
    standalone,
    trigger,
    users,
    variables,
    webhooks,
    why,
    workflows,
)

COMMANDS = "agentflow.commands"  #: Entry point group: a function, or a `typer.Typer` for a group of commands.


class PluginGroup(TyperGroup):
    """Our commands, and those of the entry points, which are imported only when they are asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; ours win over others."""
        found = super().get_command(ctx, cmd_name) or load_plugin(cmd_name)
        if found is not None:
            self.add_command(found, cmd_name)
        return found

    def list_commands(self, ctx: Any) -> list[str]:
        """All names: ours in the order of use, then the others'."""
        names = list(super().list_commands(ctx))
        return names + sorted(plugins().keys() - set(names))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; for a misspelt name every plugin is loaded, so that it may be suggested."""
        if args and self.get_command(ctx, args[0]) is None:
            for name in plugins():
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C and a closed pipe become errors like any other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise failures.Interrupted from error
        except BrokenPipeError as error:
            raise OutputClosed from error


class OutputClosed(Exception):
    """The reader of our output has gone (`| head`)."""


def plugins() -> dict[str, EntryPoint]:
    """The commands that installed packages bring."""
    return {point.name: point for point in entry_points(group=COMMANDS)}


def load_plugin(name: str) -> Any:
    """Import a package's command; None, with a note on stderr, if there is none or it is broken."""
    point = plugins().get(name)
    if point is None:
        return None
    try:
        target = point.load()
    except Exception as error:  # a broken plugin must not take the other commands with it
        if failures.wants_traceback():
            raise
        output.note(f"command {name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}")
        return None
    holder = target if isinstance(target, typer.Typer) else typer.Typer(add_completion=False)
    if holder is not target:
        holder.command(name)(target)
    command = typer.main.get_command(holder)
    command.name = name
    return command


app = typer.Typer(
    name="agentflow",
    cls=PluginGroup,
    help="Workflows for AI agents and data, on Postgres: run them, schedule them, see what happened.",
    epilog="Every command takes --json. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not reachable.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.say(version("agentflow"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    *,
    _version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    """Show the help when no command is given."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)
        raise typer.Exit(2)


for module in (
    standalone,
    files,
    workflows,
    trigger,
    runs,
    logs,
    outputs,
    why,
    next_fires,
    backfill,
    webhooks,
    events,
    pools,
    variables,
    secrets,
    connections,
    users,
    api_keys,
    database,
    doctor,
    schedulers,
    config,
):
    module.register(app)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code and never raises."""
    args = list(sys.argv[1:] if args is None else args)
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a glyph that the terminal cannot show must not end a command
            stream.reconfigure(errors="replace")
    try:
        result = app(args, standalone_mode=False, prog_name="agentflow")
        sys.stdout.flush()
    except (BrokenPipeError, OutputClosed):
        return _quiet_pipe()
    except SystemExit as stop:  # shell completion ends this way
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except typer.Abort:
        return failures.report(failures.Interrupted(), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last handler: every error becomes a message and a code
        return failures.report(error, as_json=as_json)
    return result if isinstance(result, int) else 0


def _quiet_pipe() -> int:
    """Nothing to say, and Python must not complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1

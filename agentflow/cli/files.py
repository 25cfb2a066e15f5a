"""Workflow files: `validate`, `schema`, `apply`, `export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import context, output, style
from agentflow.cli.output import JsonFlag
from agentflow.errors import AgentFlowError, Problem, SpecError

if TYPE_CHECKING:
    from agentflow.bundles import Bundle
    from agentflow.spec import WorkflowSpec

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML, JSON or Python workflow files.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=output.FILES)(validate)
    app.command(rich_help_panel=output.FILES)(schema)
    app.command(rich_help_panel=output.FILES)(apply)
    app.command(rich_help_panel=output.FILES)(export)


def validate(files: Files, *, json: JsonFlag = False) -> None:
    """Check workflow files without a database; exit 1 if one is not valid."""
    dags = context.settings().dags_path
    reports = [report for path in files for report in check_file(path, dags)]
    valid = all(report["valid"] for report in reports)
    output.emit({"valid": valid, "files": reports}, as_json=json, human=lambda: _print_reports(reports))
    if not valid:
        raise typer.Exit(1)


def check_file(path: Path, dags: Path) -> list[dict[str, Any]]:
    """One report per workflow of the file; one for the whole file if it cannot be read."""
    try:
        specs = load(path, dags)
    except SpecError as error:
        return [_report(path, None, error.problems)]
    except AgentFlowError as error:
        return [_report(path, None, [Problem(error.message, hint=error.hint)])]
    return [_report(path, spec.name, []) for spec in specs]


def load(path: Path, dags: Path) -> list[WorkflowSpec]:
    """Every workflow of a file; raises what is wrong with it."""
    from agentflow.loader import bundle_root, load_workflows

    return load_workflows(path, root=bundle_root(path, dags))


def _report(path: Path, name: str | None, problems: list[Problem]) -> dict[str, Any]:
    return {"file": str(path), "name": name, "valid": not problems, "errors": [asdict(problem) for problem in problems]}


def _print_reports(reports: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console = output.stdout()
    for report in reports:
        state = "success" if report["valid"] else "failed"
        mark = (style.glyph(state, encoding=console.encoding), style.look(state).style)
        output.say(Text.assemble(mark, f" {output.clean(report['file'])}", (f"  {report['name'] or ''}", "dim")))
        for error in report["errors"]:
            place = ":".join(str(part) for part in (report["file"], error["line"], error["column"]) if part is not None)
            where = f"{error['path']}: " if error["path"] else ""
            output.say(f"  {place}: {where}{error['message']}")
            if error["hint"]:
                output.say(Text(f"    hint: {output.clean(error['hint'])}", "cyan"))


def schema(*, json: JsonFlag = False) -> None:  # noqa: ARG001 - the schema is JSON with and without the flag
    """Print the JSON Schema of workflow files, for editors and other tools."""
    from agentflow.spec import json_schema

    output.print_json(json_schema())


def apply(files: Files, *, json: JsonFlag = False) -> None:
    """Create or update the workflows of these files: all of them, or none if one is not valid.

    A workflow whose content is the same as before keeps its version.
    """
    dags = context.settings().dags_path
    loaded = [(spec, path) for path in files for spec in load(path, dags)]
    with context.api() as api:
        from agentflow.client import Application
        from agentflow.spec import to_document

        bundles = _bundles(loaded, dags)
        items = api.workflows.apply(
            [
                Application(to_document(spec), str(path.resolve()), bundles[path].hash if uses_code(spec) else None)
                for spec, path in loaded
            ],
            {bundle.hash: bundle.data for bundle in bundles.values()},
        )
    output.emit({"items": items}, as_json=json, human=lambda: _print_applied(items))


def _bundles(loaded: list[tuple[WorkflowSpec, Path]], dags: Path) -> dict[Path, Bundle]:
    """The code bundle of every file that needs one; a folder is packed once."""
    from agentflow.bundles import build_bundle
    from agentflow.loader import bundle_root

    packed: dict[Path, Bundle] = {}
    result = {}
    for spec, path in loaded:
        if uses_code(spec):
            folder = bundle_root(path, dags)
            if folder not in packed:
                packed[folder] = build_bundle(folder)
            result[path] = packed[folder]
    return result


def uses_code(spec: WorkflowSpec) -> bool:
    """Whether a node of the workflow runs the user's own modules."""
    from agentflow.nodes import registry

    return any(registry.get(node.type).uses_code for node in spec.nodes.values())


def _print_applied(items: Sequence[output.Document]) -> None:
    for item in items:
        what = "created" if item["created"] else "updated" if item["changed"] else "unchanged"
        output.say(f"{item['name']}  version {item['version']}  {what}")


def export(
    name: Annotated[str, typer.Argument(help="Name of the workflow.")],
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Default: the newest.")] = None,
    json: JsonFlag = False,
) -> None:
    """Print a workflow as YAML (or JSON), ready for `apply`."""
    with context.api() as api:
        document = api.workflows.export(name, version)
    if json:
        output.print_json(document)
        return
    from agentflow.spec import parse_document, to_yaml

    typer.echo(to_yaml(parse_document(document)), nl=False)

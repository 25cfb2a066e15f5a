"""`agentflow config` and `agentflow import-errors`: what is in force, and what could not be loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentflow.cli import context, output
from agentflow.cli.output import Column, JsonFlag

if TYPE_CHECKING:
    from agentflow.settings import Settings

_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^@/]*@")
_QUERY_PASSWORD = re.compile(r"(password=)[^&\s]*", re.IGNORECASE)
_SECRET = re.compile(r"(^|_)(key|secret|password|token)$", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=output.SYSTEM)(config)
    app.command("import-errors", rich_help_panel=output.SYSTEM)(import_errors)


def config(*, json: JsonFlag = False) -> None:
    """List every setting, its value and where that comes from."""
    items = describe(context.settings())
    output.emit(
        {"items": items, "next_cursor": None},
        as_json=json,
        human=lambda: output.print_table(_COLUMNS, items, empty="no settings"),
    )


def describe(settings: Settings) -> list[dict[str, Any]]:
    """Every setting as `{name, value, origin, description}`; passwords are masked."""
    effective = {"dags_folder": settings.dags_path}
    in_file = _file_keys(Path("agentflow.toml"))
    items = []
    for name, field in type(settings).model_fields.items():
        variable = f"AGENTFLOW_{name.upper()}"
        value = effective.get(name, getattr(settings, name))
        if any(key.upper() == variable for key in os.environ):
            origin = "environment"
        else:
            origin = "agentflow.toml" if name in in_file else "default"
        shown = str(value) if isinstance(value, Path) else value
        items.append(
            {"name": variable, "value": mask(name, shown), "origin": origin, "description": field.description or ""}
        )
    return items


def mask(name: str, value: Any) -> Any:
    """The value without the password of a URL; of a key only whether there is one."""
    if not isinstance(value, str) or not value:
        return value
    if _SECRET.search(name):
        return "***"
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", value))


def _file_keys(path: Path) -> set[str]:
    import tomllib

    if not path.is_file():
        return set()
    return {key.lower() for key in tomllib.loads(path.read_text(encoding="utf-8"))}


def _value(row: output.Document) -> str:
    value = row["value"]
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_COLUMNS = [
    Column("SETTING", lambda row: row["name"], keep=9),
    Column("VALUE", _value, keep=8),
    Column("ORIGIN", lambda row: row["origin"], keep=5),
    Column("WHAT IT IS", lambda row: row["description"], keep=1),
]


def import_errors(*, json: JsonFlag = False) -> None:
    """List the files of the DAG folder that could not be loaded, as the scheduler last saw them."""
    with context.api() as api:
        items = list(api.system.import_errors())

    def human() -> None:
        if not items:
            output.note("every file loads")
        for item in items:
            place = item["file"] if item.get("line") is None else f"{item['file']}:{item['line']}"
            output.say(f"{place}: {item['message']}")

    output.emit({"items": items, "next_cursor": None}, as_json=json, human=human)

"""Use cases take the workspace by name and, for tests, have a default: nobody else may leave it out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Who calls use cases for others; what they leave out would be looked for in the wrong workspace.
CALLERS = ("agentflow/cli", "scheduler", "webserver")
USE_CASES = ("agentflow/access", "agentflow/backfills", "agentflow/catalog", "agentflow/runs", "agentflow/secrets")
COMPLETED = {"set_secret", "set_connection", "set_variable", "set_pool"}  #: By `put_one`, which adds who asks.


def trees(places):
    for place in places:
        for path in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]:
            yield path, ast.parse(path.read_text())


def defaulted():
    """Functions whose workspace may be left out."""
    found = set()
    for _path, tree in trees([*USE_CASES, "agentflow/webhooks", "agentflow/settings_store.py"]):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                defaults = dict(zip([a.arg for a in node.args.kwonlyargs], node.args.kw_defaults, strict=True))
                if name_of(defaults.get("workspace")) == "DEFAULT_WORKSPACE":
                    found.add(node.name)
    return found


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def forgotten(tree, functions):
    """Lines that call one of these, by itself or by `partial`, and name no workspace nor hand on what they were given.

    `api` is the command line's: it knows its workspace.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or {None, "workspace"} & {keyword.arg for keyword in node.keywords}:
            continue
        called = node.args[0] if name_of(node.func) == "partial" and node.args else node.func
        if name_of(called) in functions and not ast.unparse(called).startswith("api."):
            yield node.lineno, name_of(called)


def test_whoever_calls_a_use_case_names_the_workspace():
    functions = defaulted()
    assert {"create_run", "show_run", "create_backfill", "apply_spec"} <= functions
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in trees(CALLERS)
        for line, name in forgotten(tree, functions - COMPLETED)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        ("show_run(c, 'x')", [1]),
        ("runs.show_run(c, 'x', workspace=w)", []),
        ("do(partial(runs.show_run, run_id='x'))", [1]),
        ("do(partial(runs.show_run, **who))", []),
    ],
)
def test_what_is_forgotten_is_found(call, lines):
    assert [line for line, _name in forgotten(ast.parse(call), {"show_run"})] == lines

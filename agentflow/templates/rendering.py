"""Render the templates of a document and evaluate single expressions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from agentflow.errors import TemplateError, TemplateProblem
from agentflow.templates.scan import Path, below, has_template, path_text


def render(value: Any, context: Mapping[str, Any], *, literal: frozenset[str] = frozenset()) -> Any:
    """A copy of a JSON document with every template in it rendered, at any depth (values, not keys).

    A text that is exactly one `{{ … }}` becomes the expression's value with its type; any other becomes text.

    Args:
        value: Any JSON document, such as a node's config.
        context: `params`, `nodes`, `run`, `vars`, `secrets`, and `item` and `index` when mapped.
        literal: Keys whose values stay as they are, inner ones with dots: `http.condition`.

    Raises:
        TemplateError: A name is missing, the template is not valid or fails; the message names the place.
        MemoryError: The limit of the process was reached.
    """
    return _Renderer(context).document(value, (), literal)


def evaluate(expression: Any, context: Mapping[str, Any]) -> Any:
    """The value of a `when`, `for_each`, branch or `until` text: exactly one `{{ … }}`, or a literal.

    Anything but a text with a template in it is a literal and comes back as it is.

    Raises:
        TemplateError: The text holds more than one `{{ … }}`, or the expression fails.
        MemoryError: The limit of the process was reached.
    """
    if not isinstance(expression, str) or not has_template(expression):
        return expression
    return _run(expression.strip(), _prepared(context), pure=True)


def truth(value: Any) -> bool:
    """Whether a `when` holds: true, or false and null.

    Raises:
        TemplateError: The value is neither a boolean nor null.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    kind = {str: "text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}.get(type(value), "")
    raise TemplateError(
        f"the condition gave {kind or type(value).__name__} ({value!r:.60}), not true or false; compare it, as in"
        " `{{ params.count > 0 }}`"
    )


def read_json(path: str) -> Any:
    """The document in a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - the evaluator's child does without pathlib
        return json.load(file)


def with_inputs(
    context: dict[str, Any], files: Mapping[str, str], read: Callable[[str], Any] = read_json
) -> dict[str, Any]:
    """The context with outputs that were too large for it: by node, the file that holds each as JSON.

    Raises:
        OSError: A file is gone.
    """
    if not files:
        return context
    nodes = dict(context["nodes"])
    for node, path in files.items():
        nodes[node] = {**nodes[node], "output": read(path)}
    return {**context, "nodes": nodes}


class _Renderer:
    """One walk over a document; prepares the context at the first template."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self._given = context
        self._context: dict[str, Any] | None = None

    def document(self, value: Any, path: Path, literal: frozenset[str] = frozenset()) -> Any:
        if isinstance(value, str):
            return self._text(value, path) if has_template(value) else value
        if isinstance(value, Mapping):
            return {
                key: item if key in literal else self.document(item, (*path, key), below(literal, key))
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.document(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def _text(self, text: str, path: Path) -> Any:
        if self._context is None:
            self._context = _prepared(self._given)
        try:
            return _run(text, self._context)
        except TemplateError as error:
            if not path:
                raise
            raise TemplateError(f"{path_text(path)}: {error.message}") from error


def _run(text: str, context: dict[str, Any], *, pure: bool = False) -> Any:
    from agentflow.templates.compiled import compile_template, run_template

    try:
        compiled = compile_template(text)
    except TemplateProblem as problem:  # at run time the message is all that a person gets to see
        raise TemplateError(f"{problem.message} ({problem.hint})" if problem.hint else problem.message) from problem
    if pure and not compiled.pure:
        raise TemplateError(f"{text!r:.80} must be exactly one {{{{ … }}}}")
    return run_template(compiled, context)


def _prepared(context: Mapping[str, Any]) -> dict[str, Any]:
    """The context with its mappings labelled, so that a missing entry is named for what it is."""
    from agentflow.templates.missing import SCOPES, Scope

    return {
        name: Scope(name, value) if name in SCOPES and isinstance(value, Mapping) else value
        for name, value in context.items()
    }

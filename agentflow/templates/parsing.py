"""From text to a checked syntax tree. Nothing of the template runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, nodes

from agentflow.errors import TemplateProblem
from agentflow.templates.environment import environment
from agentflow.templates.limits import MAX_DEPTH, MAX_TEMPLATE
from agentflow.templates.missing import SCOPES

TOO_DEEP = "the template is nested too deeply, or joins too many terms: take it apart with `{% set %}` or a node"

#: `nodes.fetch-page` in a text that does not even parse.
_DASHED = re.compile(r"\bnodes\.([A-Za-z_]\w*(?:-\w+)+)")

#: Tags that load other templates; there are none to load.
_LOADING = (nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include, nodes.Block)


def parse(text: str) -> nodes.Template:
    """The syntax tree of a template.

    Raises:
        TemplateProblem: The text is too long, not valid Jinja, uses an unknown filter or test, loads another template,
            assigns to a name of the context, or writes a node id with a dash behind a dot.
    """
    if len(text) > MAX_TEMPLATE:
        raise TemplateProblem(f"the template is {len(text):,} characters long; the limit is {MAX_TEMPLATE:,}")
    try:
        tree = environment().parse(text)
    except TemplateSyntaxError as error:
        raise TemplateProblem(*_syntax_message(error), line=error.lineno, hint=_syntax_hint(text, error)) from error
    except RecursionError as error:
        raise TemplateProblem(TOO_DEEP) from error
    except (JinjaError, ValueError, OverflowError) as error:
        raise TemplateProblem(f"the template is not valid: {error}") from error
    _check(tree)
    return tree


def walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Every node of a tree, parents first.

    Raises:
        TemplateProblem: The tree is deeper than `MAX_DEPTH`.
    """
    level = [tree]
    for _ in range(MAX_DEPTH):
        yield from level
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise TemplateProblem(TOO_DEEP)


def lone_expression(text: str, tree: nodes.Template) -> nodes.Expr | None:
    """The expression of a text that is exactly one `{{ … }}`."""
    if not (text.startswith("{{") and text.endswith("}}")) or len(tree.body) != 1:
        return None
    output = tree.body[0]
    if not isinstance(output, nodes.Output) or len(output.nodes) != 1:
        return None
    expression = output.nodes[0]
    return None if isinstance(expression, nodes.TemplateData) else expression


def _check(tree: nodes.Template) -> None:
    known = environment()
    for node in walk(tree):
        if isinstance(node, nodes.Filter) and node.name not in known.filters:
            raise TemplateProblem(
                f"there is no filter `{node.name}`", line=node.lineno, hint=_like(node.name, "filter")
            )
        if isinstance(node, nodes.Test) and node.name not in known.tests:
            raise TemplateProblem(f"there is no test `{node.name}`", line=node.lineno, hint=_like(node.name, "test"))
        if isinstance(node, _LOADING):
            tag = type(node).__name__.lower()
            raise TemplateProblem(f"`{{% {tag} %}}` is not available: a template stands alone", line=node.lineno)
        if isinstance(node, nodes.Name) and node.ctx != "load" and node.name in SCOPES:
            raise TemplateProblem(f"`{node.name}` cannot be assigned to", line=node.lineno, hint="take another name")
        if isinstance(node, nodes.Sub):
            _check_dash(node)


def _like(name: str, kind: str) -> str | None:
    import difflib

    known = environment().filters if kind == "filter" else environment().tests
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{found[0]}`?" if found else None


def _check_dash(node: nodes.Sub) -> None:
    """`nodes.a-b.output` parses as a subtraction from the whole of `nodes.a`, which never makes sense."""
    parts: list[str] = []
    left: nodes.Expr = node
    while isinstance(left, nodes.Sub):
        parts.append(_first_name(left.right))
        left = left.left
    if isinstance(left, nodes.Getattr) and isinstance(left.node, nodes.Name) and left.node.name == "nodes":
        written = "-".join([left.attr, *reversed(parts)])
        raise _dash_problem(written, node.lineno)


def _dash_problem(written: str, line: int | None) -> TemplateProblem:
    return TemplateProblem(f"`nodes.{written}` reads as a subtraction", line=line, hint=f"write {dash_hint(written)}")


def dash_hint(node_id: str) -> str:
    """How a node id with a dash is written."""
    return f"nodes['{node_id}']"


def _first_name(expression: nodes.Node) -> str:
    """`b` of `b.output | json`."""
    while not isinstance(expression, (nodes.Name, nodes.Const)):
        inner = getattr(expression, "node", None)
        if not isinstance(inner, nodes.Node):
            return "…"
        expression = inner
    return expression.name if isinstance(expression, nodes.Name) else str(expression.value)


def _syntax_message(error: TemplateSyntaxError) -> tuple[str]:
    return (f"the template is not valid: {error.message}",)


def _syntax_hint(text: str, error: TemplateSyntaxError) -> str | None:
    dashed = _DASHED.search(text)
    if dashed:
        return f"a node id with a dash is written {dash_hint(dashed[1])}"
    if "comment" in (error.message or ""):
        return "`{#` begins a comment of the template; for bash's `${#name}` write {% raw %}${#name}{% endraw %}"
    return "text that shall not be a template goes between {% raw %} and {% endraw %}"

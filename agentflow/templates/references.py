"""What a template refers to, read from its syntax tree: which upstream outputs, params, variables and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentflow.errors import TemplateProblem
from agentflow.templates.scan import has_template, iter_templates, path_text

if TYPE_CHECKING:
    from jinja2 import nodes

#: `{{ nodes.a.output.rows }}` and its like: most templates there are, told 50 times faster than by parsing.
_SIMPLE = re.compile(r"\{\{ *(nodes|params|vars|secrets)\.([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)* *\}\}", re.ASCII)

#: Names that stand at the top of a context; `item` and `index` only in mapped nodes.
CONTEXT_NAMES = frozenset({"params", "nodes", "run", "vars", "secrets", "item", "index"})

_SCOPES = ("nodes", "params", "vars", "secrets")
_LOOKUPS = frozenset({"get", "items", "keys", "values"})


@dataclass(frozen=True, slots=True)
class References:
    """Names that a template, or all templates of a document, use."""

    nodes: frozenset[str] = frozenset()  #: Ids of `nodes.<id>` and `nodes['<id>']`.
    params: frozenset[str] = frozenset()
    vars: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()  #: Every top-level name, known or not.
    pure: bool = False  #: The text is exactly one `{{ … }}`; False for a document.
    dynamic: frozenset[str] = field(default=frozenset())
    """Mappings used other than by a fixed name (`nodes[params.which]`, `vars.items()`), so that nobody can tell which
    entries are meant."""

    @property
    def dynamic_nodes(self) -> bool:
        """Whether the upstreams cannot be told from the text; validation refuses that."""
        return "nodes" in self.dynamic

    def union(self, other: References) -> References:
        """Both together; not `pure`."""
        return References(
            nodes=self.nodes | other.nodes,
            params=self.params | other.params,
            vars=self.vars | other.vars,
            secrets=self.secrets | other.secrets,
            names=self.names | other.names,
            dynamic=self.dynamic | other.dynamic,
        )


NOTHING = References()


def find_references(text: str) -> References:
    """What one text refers to; nothing when it holds no template.

    Raises:
        TemplateProblem: The template is not valid, with the line and mostly a hint.
    """
    if not has_template(text):
        return NOTHING
    simple = _SIMPLE.fullmatch(text)
    if simple:
        scope, entry = simple.groups()
        found = {scope: frozenset({entry})}
        return References(**found, names=frozenset({scope}), pure=True)
    return _cached(text) if len(text) <= _CACHED_LENGTH else _find(text)


def find_references_in(value: Any, literal_paths: Iterable[str] = ()) -> References:
    """What all templates of a JSON document refer to together.

    Args:
        value: Any JSON document, such as a node's config.
        literal_paths: Top-level keys whose text is never a template.

    Raises:
        TemplateProblem: The first template that is not valid, with its path.
    """
    total = NOTHING
    for path, text in iter_templates(value, literal=frozenset(literal_paths)):
        try:
            total = total.union(find_references(text))
        except TemplateProblem as problem:
            problem.path = path_text(path)
            raise
    return total


_CACHED_LENGTH = 4 * 2**10  # characters; longer texts are rare and would fill the memory


def _find(text: str) -> References:
    from agentflow.templates.parsing import lone_expression, parse

    tree = parse(text)
    found: dict[str, set[str]] = {scope: set() for scope in _SCOPES}
    dynamic: set[str] = set()
    for scope, entry in _uses(tree):
        if entry is None:
            dynamic.add(scope)
        elif not entry.isprintable():  # no database could even be asked for it
            raise TemplateProblem(
                f"`{scope}` has no entry named {entry!a:.60}", hint="names are letters, digits, _ and -"
            )
        else:
            found[scope].add(entry)
    return References(
        **{scope: frozenset(entries) for scope, entries in found.items()},
        names=_top_level_names(tree),
        pure=lone_expression(text, tree) is not None,
        dynamic=frozenset(dynamic),
    )


_cached = lru_cache(maxsize=4096)(_find)


def _uses(tree: nodes.Template) -> Iterator[tuple[str, str | None]]:
    """Each use of a scope: its name and the entry, None when the entry is not a fixed name."""
    from jinja2 import nodes

    from agentflow.templates.parsing import walk

    explained: set[int] = set()  # ids of the nodes that a parent has already accounted for
    for node in walk(tree):
        if id(node) in explained:
            continue
        if isinstance(node, nodes.Call) and _is_lookup(node.node):
            method: nodes.Getattr = node.node  # type: ignore[assignment]  # what _is_lookup has checked
            explained.update((id(method), id(method.node)))
            key = node.args[0] if method.attr == "get" and node.args else None
            yield method.node.name, _constant(key)  # type: ignore[attr-defined]  # the same
        elif isinstance(node, nodes.Getattr) and _is_scope(node.node):
            explained.add(id(node.node))
            yield node.node.name, node.attr  # type: ignore[attr-defined]  # a Name, says _is_scope
        elif isinstance(node, nodes.Getitem) and _is_scope(node.node):
            explained.add(id(node.node))
            yield node.node.name, _constant(node.arg)  # type: ignore[attr-defined]  # the same
        elif _is_scope(node):
            yield node.name, None  # type: ignore[attr-defined]  # the same


def _is_scope(node: nodes.Node) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Name) and node.name in _SCOPES


def _is_lookup(node: nodes.Node) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Getattr) and node.attr in _LOOKUPS and _is_scope(node.node)


def _constant(node: nodes.Node | None) -> str | None:
    from jinja2 import nodes

    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _top_level_names(tree: nodes.Template) -> frozenset[str]:
    from jinja2 import meta, nodes

    from agentflow.templates.environment import environment
    from agentflow.templates.parsing import TOO_DEEP, walk

    used: set[str] = set()
    for node in walk(tree):
        if isinstance(node, nodes.Name):
            used.add(node.name)
        elif isinstance(node, nodes.Stmt) and not isinstance(node, (nodes.Output, nodes.If)):
            # Loops, assignments and macros bring names of their own: Jinja knows their scopes. Slower by far.
            try:
                return frozenset(meta.find_undeclared_variables(tree))
            except RecursionError as error:
                raise TemplateProblem(TOO_DEEP) from error
    return frozenset(used.difference(environment().globals))

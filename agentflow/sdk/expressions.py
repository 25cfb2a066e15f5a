"""Values that are not known yet: params and outputs, as template expressions."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from agentflow.errors import WorkflowBodyError

if TYPE_CHECKING:
    from agentflow.sdk.graph import NodeDraft

_NOT_YET = (
    "{what} {text}: its value is not known while the graph is drawn, only when the run gets there. "
    "The body of a @workflow function runs once, without data."
)


class Expression:
    """A template expression such as `params.city` or `nodes.load.output["total"]`.

    Items and attributes give longer expressions, comparisons and `& | ~` (and, or, not) give conditions for `when`,
    and as text (`str`, f-strings) it is the template `{{ … }}`. Everything that needs the value now is an error.
    """

    __slots__ = ("_nodes", "_text")

    def __init__(self, text: str, nodes: frozenset[NodeDraft] = frozenset()) -> None:
        self._text = text
        self._nodes = nodes  # whose outputs it reads

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):  # Python's own protocols (copy, pickle, inspect) ask for these
            raise AttributeError(name)
        return Expression(f"{self._text}.{name}", self._nodes)

    def __getitem__(self, key: object) -> Expression:
        if isinstance(key, slice):
            parts = [key.start, key.stop] if key.step is None else [key.start, key.stop, key.step]
            inside = ":".join("" if part is None else literal(part) for part in parts)
            return Expression(f"{self._text}[{inside}]", self._nodes.union(*map(nodes_of, parts)))
        return Expression(f"{self._text}[{literal(key)}]", self._nodes | nodes_of(key))

    def __str__(self) -> str:
        return f"{{{{ {self._text} }}}}"

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse(f"the format {spec!r} cannot be applied to", "Use a filter: {{ '%.2f' | format(...) }}.")
        return str(self)

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def _operator(self, operator: str, other: object) -> Expression:
        return Expression(f"({self._text} {operator} {literal(other)})", self._nodes | nodes_of(other))

    # A comparison is an expression and not a bool, so `if rows == []` meets __bool__ and is told why.
    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self._operator("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self._operator("!=", other)

    def __lt__(self, other: object) -> Expression:
        return self._operator("<", other)

    def __le__(self, other: object) -> Expression:
        return self._operator("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self._operator(">", other)

    def __ge__(self, other: object) -> Expression:
        return self._operator(">=", other)

    def __and__(self, other: object) -> Expression:
        return self._operator("and", other)

    def __or__(self, other: object) -> Expression:
        return self._operator("or", other)

    def __invert__(self) -> Expression:
        return Expression(f"(not {self._text})", self._nodes)

    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:  # noqa: PLE0304 - it never returns
        self._refuse("cannot decide on", 'Give the node a condition (`when=total["n"] > 10`) or use node.branch.')

    def __iter__(self) -> NoReturn:
        self._refuse("cannot loop over or unpack", "Use `.map(...)` for one node per item, or `[0]` for one item.")

    def __len__(self) -> NoReturn:  # noqa: PLE0303 - it never returns
        self._refuse("cannot take the length of", "Write it as a template: {{ nodes.x.output | length }}.")

    def __contains__(self, item: object) -> bool:
        self._refuse("cannot look inside", "Write it as a template: {{ 'a' in nodes.x.output }}.")

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        self._refuse("cannot call", "Do it inside a @node function.")

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise WorkflowBodyError(_NOT_YET.format(what=what, text=self._text), hint=hint)


def nodes_of(value: object) -> frozenset[NodeDraft]:
    """The nodes whose outputs a value reads; none for plain values."""
    return value._nodes if isinstance(value, Expression) else frozenset()  # noqa: SLF001 - same module


def text_of(value: Expression) -> str:
    """The expression without its braces."""
    return value._text  # noqa: SLF001 - same module; a public name would hide an attribute of the output


def literal(value: object) -> str:
    """A value as Jinja source.

    Raises:
        WorkflowBodyError: It has no literal there.
    """
    if isinstance(value, Expression):
        return text_of(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    raise WorkflowBodyError(f"a {type(value).__name__} cannot be written into a template expression")


def template(value: Any) -> Any:
    """The template of an expression; anything else as it is."""
    return str(value) if isinstance(value, Expression) else value

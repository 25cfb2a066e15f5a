"""The one Jinja environment: immutable sandbox, nothing global but `range`, keys before attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentflow.templates.filters import FILTERS
from agentflow.templates.limits import bounded_range, check_binop, check_call, check_str_format
from agentflow.templates.missing import MissingName
from agentflow.templates.values import as_json


@pass_context
def _finalize(_context: Context, value: Any) -> Any:
    """What `{{ … }}` inside a text prints. Taking the context keeps Jinja from running it while it compiles."""
    return value if isinstance(value, Undefined) else as_json(value)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with AgentFlow's rules.

    Nothing of a template runs while it is parsed or compiled (no constant folding), so those may happen outside
    the limited processes.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(
            undefined=MissingName,
            finalize=_finalize,
            keep_trailing_newline=True,
            optimized=False,
            cache_size=0,
        )
        self.globals = {"range": bounded_range}
        self.filters.update(FILTERS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`output.items` is the key when there is one, else the method."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`output['items']` is the key or an error, never the method."""
        if isinstance(obj, Mapping):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                return self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Run an operator after a look at the size of its result."""
        check_binop(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method after a look at the size of its result."""
        check_call(called, args, kwargs)
        return super().call(context, called, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandboxed `str.format`, refused when it holds a huge width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_str_format(value.__self__)
        return wrapped


@cache
def environment() -> TemplateEnvironment:
    """The environment, made at first use."""
    return TemplateEnvironment()

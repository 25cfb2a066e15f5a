"""Calls a Python function: `main` of inline code, or `module:function` of the workflow's code bundle."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from agentflow.nodes import inline_code
from agentflow.nodes.base import LITERAL, NodeConfig, NodeContext, NodeFailed, NodeType


def _function_address(text: str) -> str:
    module, colon, path = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ValueError("must be `module:function`, such as reports.sales:total")
    return text


class PythonConfig(NodeConfig):
    """Config of `python`."""

    code: str | None = Field(
        None, description="Python that defines `main`; never a template", json_schema_extra=LITERAL
    )
    function: Annotated[str, AfterValidator(_function_address)] | None = Field(
        None,
        description="`module:function` from the DAG folder or an installed package",
        json_schema_extra=LITERAL,
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function")

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, given: Any) -> Any:
        if isinstance(given, dict) and ("code" in given) == ("function" in given):
            raise ValueError("give exactly one of `code` and `function`")
        return given

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        if self.code is None and self.function is None:
            raise ValueError("`code` or `function` is null")
        return self

    @field_validator("code")
    @classmethod
    def _readable(cls, code: str | None, info: ValidationInfo) -> str | None:
        if code is not None and info.context and info.context.get("static"):
            problem = inline_code.static_problem(code)
            if problem:
                raise ValueError(problem)
        return code


class PythonNode(NodeType[PythonConfig]):
    """The function's return value is the output."""

    name = "python"
    title = "Python"
    description = "Calls a Python function and returns what it returns."
    Config = PythonConfig
    uses_code = True

    def run(self, config: PythonConfig, context: NodeContext) -> Any:
        """What the function returned; a coroutine is run to its end."""
        _add_to_path(context)
        if config.code is not None:
            with inline_code.namespace(config.code, context.node) as module:
                return _call(_main(module.__dict__), config.args)
        with _import_hint(config.function or ""):
            function = _find(config.function or "")
        return _call(function, config.args)


def _add_to_path(context: NodeContext) -> None:
    """Make the bundle importable, also where no runner prepared the process."""
    if context.bundle_dir is not None and str(context.bundle_dir) not in sys.path:
        sys.path.insert(0, str(context.bundle_dir))


def _main(names: dict[str, Any]) -> Callable[..., Any]:
    if "main" not in names:
        raise NodeFailed("the code does not define `main`; write `def main(...):` and return a value from it")
    main = names["main"]
    if not callable(main):
        raise NodeFailed(f"`main` is not a function, it is {_article(main)}")
    return main  # type: ignore[no-any-return]  # narrowed by callable()


def _find(address: str) -> Callable[..., Any]:
    module, _, path = address.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        if not hasattr(found, name):
            raise NodeFailed(f"module `{module}` has no `{path}`")
        found = getattr(found, name)
    if not callable(found):
        raise NodeFailed(f"`{address}` is not a function, it is {_article(found)}")
    return found  # type: ignore[no-any-return]  # narrowed by callable()


@contextmanager
def _import_hint(address: str) -> Iterator[None]:
    """Say where modules are looked for when the named one (and not one that it imports) is missing."""
    module = address.partition(":")[0]
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise NodeFailed(
                f"there is no module `{error.name}`; put it into the DAG folder beside the workflow, "
                "or install it where the runner runs",
                kind="ModuleNotFoundError",
            ) from error
        raise


def _call(function: Callable[..., Any], args: dict[str, Any]) -> Any:
    result = function(**args)
    return asyncio.run(_finish(result)) if inspect.isawaitable(result) else result


async def _finish(result: Awaitable[Any]) -> Any:
    return await result


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

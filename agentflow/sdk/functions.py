"""`node`: the decorator of node functions, and the way to every other node type."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from agentflow.errors import WorkflowBodyError
from agentflow.sdk.expressions import Expression
from agentflow.sdk.graph import GraphBuilder, NodeResult, connect, current_graph, drafts_in
from agentflow.sdk.keys import NODE_KEYS, NodeKeys, check_keys, split_keywords

P = ParamSpec("P")
R = TypeVar("R")


class NodeFunction(Generic[P, R]):
    """A function that is a node when a workflow body calls it, and a plain function everywhere else."""

    def __init__(self, function: Callable[P, R], keys: Mapping[str, Any], node_id: str | None = None) -> None:
        check_keys(keys, NODE_KEYS, "@node")
        functools.update_wrapper(self, function)
        self._function = function
        self._keys = dict(keys)
        self._id = node_id

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Outside a workflow body: run it. Inside: add a node; its result stands for the output.

        The declared type is that of the output, so that a type checker follows data from node to node.
        """
        graph = current_graph()
        if graph is None:
            return self._function(*args, **kwargs)
        return cast("R", self._add(graph, self._bind(args, kwargs), self._keys))

    def named(self, node_id: str) -> NodeFunction[P, R]:
        """The same function under an id of your choice, for the next call."""
        return NodeFunction(self._function, self._keys, node_id)

    def override(self, **keys: Unpack[NodeKeys]) -> NodeFunction[P, R]:
        """The same function with other node keys: `load.override(retries=5)(city)`."""
        return NodeFunction(self._function, {**self._keys, **keys}, self._id)

    def map(self, items: Any, /, **fixed: Any) -> NodeResult:
        """One node run per item (`for_each`): the item goes to the first parameter that `fixed` does not give.

        Raises:
            WorkflowBodyError: Outside a workflow body, or no parameter is left for the item.
        """
        graph = current_graph()
        if graph is None:
            raise WorkflowBodyError(
                f"{self._function.__name__}.map(...) works only in the body of a @workflow function"
            )
        free = [name for name in self._signature().parameters if name not in fixed]
        if not free:
            raise WorkflowBodyError(f"`{self._function.__name__}` has no parameter left for the item")
        arguments = self._bind((), {free[0]: Expression("item"), **fixed})
        return self._add(graph, arguments, {**self._keys, "for_each": items})

    def _signature(self) -> Any:
        import inspect

        return inspect.signature(self._function)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, as the function itself would see them.

        Raises:
            TypeError: They do not fit its signature.
            WorkflowBodyError: The function takes arguments that have no name.
        """
        signature = self._signature()
        try:
            bound: dict[str, Any] = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self._function.__name__}(): {error}") from None
        arguments: dict[str, Any] = {}
        for name, value in bound.items():
            kind = signature.parameters[name].kind
            if kind in (kind.VAR_POSITIONAL, kind.POSITIONAL_ONLY):
                raise WorkflowBodyError(
                    f"node function `{self._function.__name__}` takes `{name}` by position only",
                    hint="Nodes get their arguments by name; give the function named parameters, e.g. one list.",
                )
            arguments |= value if kind is kind.VAR_KEYWORD else {name: value}
        return arguments

    def _add(self, graph: GraphBuilder, arguments: dict[str, Any], keys: Mapping[str, Any]) -> NodeResult:
        config: dict[str, Any] = {"function": self._address()}
        if arguments:
            config["args"] = arguments
        node_id = self._id or graph.free_id(self._function.__name__)
        return graph.add(node_id, "python", keys=keys, config=config, line=_caller_line())

    def _address(self) -> str:
        """`module:name`, by which a runner finds the function.

        Raises:
            WorkflowBodyError: A runner would not find it, or would find another one.
        """
        name, module = self._function.__name__, self._function.__module__
        if self._function.__qualname__ != name or not name.isidentifier():
            raise WorkflowBodyError(
                f"node function `{self._function.__qualname__}` is not at the top level of its module",
                hint="A runner imports it by its name; move it out of the function or class.",
            )
        if not all(part.isidentifier() for part in module.split(".")):
            raise WorkflowBodyError(
                f"a runner cannot import `{name}` from a file called `{module}.py`",
                hint="Rename the file to a Python name: letters, digits and underscores.",
            )
        found = getattr(sys.modules.get(module), name, None)
        if not isinstance(found, NodeFunction) or found.__dict__["_function"] is not self._function:
            raise WorkflowBodyError(
                f"the name `{name}` in module `{module}` is not this node function (any more)",
                hint="Two things share the name; a runner would call the wrong one. Rename one of them.",
            )
        return f"{module}:{name}"


class NodeApi:
    """The name `node`: `@node` makes node functions, `node.shell(…)` and the like add nodes of other types."""

    @overload
    def __call__(self, function: Callable[P, R], /) -> NodeFunction[P, R]: ...

    @overload
    def __call__(self, /, **keys: Unpack[NodeKeys]) -> Callable[[Callable[P, R]], NodeFunction[P, R]]: ...

    def __call__(self, function: Callable[..., Any] | None = None, /, **keys: Any) -> Any:
        """`@node` or `@node(retries=2, timeout="30s")`: every node key is a keyword."""
        if function is not None:
            if not callable(function):
                raise TypeError(f"@node decorates a function, not {function!r}; node keys are keywords")
            return NodeFunction(function, keys)
        check_keys(keys, NODE_KEYS, "@node")
        return lambda decorated: NodeFunction(decorated, keys)

    def __getattr__(self, node_type: str) -> Callable[..., NodeResult]:
        """`node.http("ping", url=…, retries=2)`: a node of that type; `split_keywords` tells keys from config."""
        if node_type.startswith("_"):
            raise AttributeError(node_type)
        return functools.partial(_add_typed, node_type)


def _add_typed(node_type: str, node_id: str, /, **given: Any) -> NodeResult:
    graph = current_graph()
    if graph is None:
        raise WorkflowBodyError(f"node.{node_type}(...) works only in the body of a @workflow function")
    keys, config = split_keywords(given)
    chosen: list[NodeResult] = []
    if node_type == "branch":
        config = _ids_of_choices(config, chosen)
    result = graph.add(node_id, node_type, keys=keys, config=config, line=_caller_line())
    connect([result], drafts_in(chosen))
    return result


def _ids_of_choices(config: dict[str, Any], chosen: list[NodeResult]) -> dict[str, Any]:
    """A branch names the nodes it may choose: results become ids, and those nodes wait for the branch."""

    def ids(choice: Any) -> Any:
        items = choice if isinstance(choice, (list, tuple)) else [choice]
        chosen.extend(item for item in items if isinstance(item, NodeResult))
        return [drafts_in(item)[0].id if isinstance(item, NodeResult) else item for item in items]

    changed = dict(config)
    if "default" in changed:
        changed["default"] = ids(changed["default"])
    if isinstance(changed.get("cases"), (list, tuple)):
        changed["cases"] = [
            {**case, "to": ids(case["to"])} if isinstance(case, Mapping) and "to" in case else case
            for case in changed["cases"]
        ]
    return changed


def chain(*nodes: Any) -> None:
    """`chain(a, b, [c, d], e)` is `a >> b >> [c, d] >> e`, for code that a type checker reads.

    A node call is typed as its output, and `>>` between two lists is an error to a type checker.
    """
    for upstream, downstream in itertools.pairwise(nodes):
        connect(drafts_in(upstream), drafts_in(downstream))


def _caller_line() -> int | None:
    """The line of the body that is adding a node: the first frame outside this package."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to a caller's line without building a whole stack
    while frame.f_globals.get("__name__", "").startswith("agentflow.sdk"):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return frame.f_lineno


node = NodeApi()

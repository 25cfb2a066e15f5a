"""`@workflow`: a function whose body draws a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, overload

from agentflow.errors import WorkflowBodyError
from agentflow.sdk.expressions import Expression
from agentflow.sdk.graph import GraphBuilder, current_graph
from agentflow.sdk.keys import WORKFLOW_KEYS, WorkflowKeys, check_keys, plain_duration

if TYPE_CHECKING:
    from agentflow.spec import WorkflowSpec

_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


class Workflow:
    """A workflow of a Python file. Making it is cheap: the body runs only when `document` or `spec` is asked for."""

    def __init__(self, function: Callable[..., Any], keys: Mapping[str, Any]) -> None:
        check_keys(keys, WORKFLOW_KEYS, "@workflow")
        self.function = function
        self.name: str = keys.get("name") or function.__name__
        self.keys = {key: value for key, value in keys.items() if key != "name"}
        #: Line of each node in the file, known once the body has run.
        self.lines: dict[str, int] = {}
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """A workflow is not called; it is run by a scheduler."""
        if current_graph() is not None:
            hint = f'To run it as one step of another: node.workflow("{self.name}", name="{self.name}", params={{…}}).'
        else:
            hint = "Run it with `agentflow run FILE`, or call its @node functions, which are plain functions here."
        raise WorkflowBodyError(f"workflow `{self.name}` cannot be called", hint=hint)

    def document(self) -> dict[str, Any]:
        """Run the body and give the spec as a JSON document, not validated yet.

        Raises:
            WorkflowBodyError: The body does what cannot be drawn. Anything else that the body raises comes through.
        """
        graph = GraphBuilder(self.name)
        arguments = self._arguments()
        with graph.drawing():
            returned = self.function(**{name: Expression(f"params.{name}") for name in arguments})
        if not graph.drafts:
            raise WorkflowBodyError(
                f"the body of workflow `{self.name}` makes no node",
                hint="Call @node functions or node.<type>(…) in it.",
            )
        document: dict[str, Any] = {"name": self.name}
        description = self._description()
        if description:
            document["description"] = description
        document |= {key: _plain_key(value) for key, value in self.keys.items()}
        params = self._params(arguments)
        if params:
            document["params"] = params
        if returned is not None:
            document["outputs"] = self._outputs(returned)
        self.lines = {draft.id: draft.line for draft in graph.drafts.values() if draft.line is not None}
        document["nodes"] = graph.documents()
        return document

    def spec(self) -> WorkflowSpec:
        """The validated spec.

        Raises:
            SpecError: The workflow is not valid.
        """
        from agentflow.spec import parse_document

        return parse_document(self.document())

    def _description(self) -> str:
        import inspect

        return inspect.cleandoc(self.function.__doc__ or "")

    def _arguments(self) -> dict[str, Any]:
        import inspect

        parameters = dict(inspect.signature(self.function).parameters)
        for name, parameter in parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise WorkflowBodyError(
                    f"argument `{name}` of workflow `{self.name}` has no name of its own",
                    hint="The arguments are the params; write each one out.",
                )
        return parameters

    def _params(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The schema of each param: what `params` says, else what annotation and default of the argument say."""
        params = {name: dict(schema) for name, schema in (self.keys.get("params") or {}).items()}
        for name, argument in arguments.items():
            if name not in params:
                kind = _json_type(argument.annotation)
                params[name] = {"type": kind} if kind else {}
            if argument.default is not argument.empty:
                params[name].setdefault("default", _plain_key(argument.default))
        return params

    def _outputs(self, returned: object) -> dict[str, Any]:
        if "outputs" in self.keys:
            raise WorkflowBodyError(f"workflow `{self.name}` has `outputs` and its body returns something; keep one")
        if not isinstance(returned, dict):
            raise WorkflowBodyError(
                f"the body of workflow `{self.name}` returns {returned!r}",
                hint='Return nothing, or the workflow\'s outputs by name: {"total": total(rows)}.',
            )
        return {str(name): _plain_key(value) for name, value in returned.items()}


def _plain_key(value: Any) -> Any:
    """Workflow keys as JSON: expressions as templates, timedeltas as durations, tuples as lists."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain_key(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain_key(item) for key, item in value.items()}
    return plain_duration(value)


def _json_type(annotation: Any) -> str | None:
    """`list[int]` or its text -> `array`; None when it says nothing simple."""
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return _JSON_TYPES.get(name.partition("[")[0].strip())


@overload
def workflow(function: Callable[..., Any], /) -> Workflow: ...


@overload
def workflow(**keys: Unpack[WorkflowKeys]) -> Callable[[Callable[..., Any]], Workflow]: ...


def workflow(function: Callable[..., Any] | None = None, /, **keys: Any) -> Any:
    """`@workflow` or `@workflow(name="sales", triggers=[…])`: every workflow key but `nodes` is a keyword."""
    if function is not None:
        if not callable(function):
            raise TypeError(f"@workflow decorates a function, not {function!r}; write @workflow(name={function!r})")
        return Workflow(function, keys)
    check_keys(keys, WORKFLOW_KEYS, "@workflow")
    return lambda decorated: Workflow(decorated, keys)

"""What a `wait` node can wait for besides times: the config of each kind."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from agentflow.nodes.base import LITERAL
from agentflow.nodes.config_check import STATIC
from agentflow.nodes.fields import CONNECTION, Moment
from agentflow.nodes.http import HttpConfig
from agentflow.nodes.workflow import WorkflowName

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


def _run_id(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise ValueError("must be the id of a run, or {workflow, logical_date, states}") from None


class AwaitedRun(BaseModel):
    """Another run: this very one, or a workflow's run of a logical date, which need not exist yet."""

    model_config = _STRICT

    id: Annotated[str, AfterValidator(_run_id)] | None = Field(None, description="Id of the run")
    workflow: WorkflowName | None = Field(None, description="Name of its workflow")
    logical_date: Moment | None = Field(None, description="Its logical date; default: that of the waiting run")
    states: tuple[Literal["success", "failed", "cancelled"], ...] = Field(
        ("success",), description="Ends that are waited for; any other fails the node", min_length=1
    )

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, given: Any) -> Any:
        if isinstance(given, dict):
            if ("id" in given) == ("workflow" in given):
                raise ValueError("give exactly one of `id` and `workflow`")
            if "id" in given and "logical_date" in given:
                raise ValueError("`logical_date` says nothing with `id`")
        return given

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        if self.id is None and self.workflow is None:
            raise ValueError("the run to wait for is null")
        return self


def _condition(text: str, info: ValidationInfo) -> str:
    if info.context != STATIC:
        return text  # evaluated a moment later
    from agentflow.templates import TemplateProblem, find_references

    try:
        found = find_references(text)
    except TemplateProblem as problem:
        raise ValueError(str(problem.message)) from None
    if not found.pure:
        raise ValueError("must be exactly one {{ expression }} over `response`, true or false")
    if others := sorted(found.names - {"response"}):
        raise ValueError(f"knows only `response` (status, headers, body), not `{others[0]}`")
    return text


class HttpCondition(HttpConfig):
    """A request; the condition holds when the answer is as expected."""

    condition: Annotated[str, AfterValidator(_condition)] | None = Field(
        None, description="One {{ }} over `response`, evaluated when the status is expected", json_schema_extra=LITERAL
    )


class SqlCondition(BaseModel):
    """A query; the condition holds when the first column of its first row is true, not 0 and not empty."""

    model_config = _STRICT

    connection: str = Field(
        description="Name of a connection of type postgres", json_schema_extra={**CONNECTION, **LITERAL}, min_length=1
    )
    query: str = Field(
        description="One statement that only reads; values come in as %(name)s from `params`",
        json_schema_extra=LITERAL,
        min_length=1,
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Values of the query")


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path, on the machine where the node runs")
    if "\0" in path:
        raise ValueError("contains a NUL character")
    return path


class FileCondition(BaseModel):
    """A path; the condition holds when something is there, and as large and as new as it should be."""

    model_config = _STRICT

    path: Annotated[str, AfterValidator(_absolute)] = Field(
        description="Absolute path; * ? [ ] match names in a folder"
    )
    min_size: int = Field(0, description="Bytes that the file has at least", ge=0)
    newer_than: Moment | None = Field(None, description="Time after which the file was last changed")

"""`/variables`: values that templates read as `vars.<name>`."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from agentflow import settings_store
from agentflow.access import Role
from webserver.access import requires
from webserver.api.named import NamePath, delete_one, list_all, put_one, show_one
from webserver.arguments import Body
from webserver.pages import Answer, Page, PageQuery
from webserver.resource import Resource


class Variable(Answer):
    """A variable."""

    name: str
    value: Any
    updated_at: str


class VariablePage(Page[Variable]):
    """Variables by name."""


class VariableBody(Body):
    """What a variable is to hold."""

    value: Any = Field(..., description="Any JSON value")


variables = Resource("variables", "Values that templates read as `vars.<name>`.")


@variables.get("/variables", responses={200: VariablePage})
@requires(Role.VIEWER)
def list_variables(query: PageQuery) -> dict[str, Any]:
    """List variables with their values."""
    return list_all(settings_store.list_variables, query)


@variables.get("/variables/<name>", responses={200: Variable})
@requires(Role.VIEWER)
def get_variable(path: NamePath) -> dict[str, Any]:
    """Show a variable."""
    return show_one(settings_store.list_variables, "variable", path.name)


@variables.put("/variables/<name>", responses={200: Variable, 201: Variable})
@requires(Role.EDITOR)
def put_variable(path: NamePath, body: VariableBody) -> tuple[dict[str, Any], int]:
    """Create or replace a variable."""
    change = partial(settings_store.set_variable, name=path.name, value=body.value)
    return put_one(settings_store.list_variables, path.name, change)


@variables.delete("/variables/<name>", responses={204: None})
@requires(Role.EDITOR)
def delete_variable(path: NamePath) -> tuple[str, int]:
    """Delete a variable."""
    return delete_one(settings_store.delete_variable, path.name)

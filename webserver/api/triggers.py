"""`/triggers`: what starts runs by itself."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field

from agentflow import catalog
from agentflow.access import Role
from webserver.access import current_principal, requires
from webserver.database import do
from webserver.pages import Answer, Page, PageQuery, page
from webserver.resource import Resource


class Fire(Answer):
    """A fire to come."""

    at: str
    note: Literal["dst-gap", "dst-overlap"] | None = Field(description="How a clock change concerns it")


class Trigger(Answer):
    """A trigger of a published workflow."""

    id: int
    workflow: str
    name: str
    type: str
    config: dict[str, Any]
    paused: bool
    workflow_paused: bool = Field(description="The workflow is paused, or its file is gone")
    next_fire: str | None
    fires: list[Fire]
    last_fire: str | None = Field(description="Logical date of its latest fire")
    last_run: str | None = Field(description="The run that this started")


class TriggerPage(Page[Trigger]):
    """Triggers."""


class TriggerQuery(PageQuery):
    """Which triggers."""

    workflow: str | None = Field(None, max_length=100, description="Only of this workflow")
    fires: int = Field(3, ge=0, le=50, description="How many next fire times to tell of each")


triggers = Resource("triggers", "What starts runs by itself, and when.")


@triggers.get("/triggers", responses={200: TriggerPage})
@requires(Role.VIEWER)
def list_triggers(query: TriggerQuery) -> dict[str, Any]:
    """List triggers with their next fire times."""
    find = partial(
        catalog.list_triggers,
        workflow=query.workflow,
        fires=query.fires,
        limit=query.limit,
        cursor=query.cursor,
        workspace=current_principal().workspace,
    )
    return page(*do(find))

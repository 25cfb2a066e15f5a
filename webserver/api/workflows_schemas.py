"""What the API takes and answers about workflows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webserver.pages import Answer, Page, PageQuery


class LatestRun(Answer):
    """The newest run of a workflow."""

    id: str
    state: str
    created_at: str


class WorkflowItem(Answer):
    """A workflow in a list."""

    name: str
    title: str | None
    version: int = Field(description="Number of the published version")
    source: Literal["file", "api"]
    source_path: str | None = Field(description="File below the DAG folder, of workflows that belong to one")
    paused: bool
    pause_reason: str | None = Field(description="Why the system paused it; null when a person did")
    missing: bool = Field(description="Its file is gone: it does not fire")
    tags: list[str]
    next_fire: str | None
    latest_run: LatestRun | None


class WorkflowPage(Page[WorkflowItem]):
    """Workflows by name."""


class WorkflowQuery(PageQuery):
    """Which workflows."""

    search: str | None = Field(None, max_length=200, description="Part of the name, title or description")
    tag: list[str] = Field([], max_length=20, description="Has this tag; of several, all")
    paused: bool | None = None
    source: Literal["file", "api"] | None = None

"""Workflows, their versions and triggers."""

from __future__ import annotations

from typing import Literal, TypedDict

from agentflow.client.documents.common import Json


class LatestRun(TypedDict):
    """The newest run of a workflow."""

    id: str
    state: str
    created_at: str


class WorkflowItem(TypedDict):
    """A workflow in a list."""

    name: str
    title: str | None
    version: int
    source: Literal["file", "api"]
    source_path: str | None
    paused: bool
    pause_reason: str | None
    missing: bool
    tags: list[str]
    next_fire: str | None
    latest_run: LatestRun | None


class Workflow(WorkflowItem):
    """A workflow with its published spec."""

    spec: Json


class Applied(TypedDict):
    """What became of a workflow document."""

    name: str
    version: int
    changed: bool
    created: bool


class VersionItem(TypedDict):
    """A version in a list."""

    version: int
    published: bool
    message: str | None
    content_hash: str
    bundle_hash: str | None
    created_at: str
    created_by: str


class Version(VersionItem):
    """A version with its spec."""

    spec: Json


class Fire(TypedDict):
    """A fire to come."""

    at: str
    note: Literal["dst-gap", "dst-overlap"] | None


class Trigger(TypedDict):
    """A trigger of a published workflow."""

    id: int
    workflow: str
    name: str
    type: str
    config: Json
    paused: bool
    workflow_paused: bool
    next_fire: str | None
    fires: list[Fire]
    last_fire: str | None
    last_run: str | None

"""The instance: what happened, and what it runs on."""

from __future__ import annotations

from typing import Any, TypedDict

from agentflow.client.documents.common import Json, Page


class Event(TypedDict):
    """Something that somebody did."""

    at: str
    actor: str
    action: str
    subject: str
    detail: Any


class ImportProblem(TypedDict):
    """A file of the DAG folder that could not be loaded."""

    file: str
    message: str
    line: int | None
    traceback: str | None
    at: str


class Scheduler(TypedDict):
    """A scheduler process."""

    id: str
    hostname: str
    pid: int
    state: str
    executors: list[str]
    queues: list[str]
    parallelism: int
    attempts: int
    started_at: str
    beat_at: str
    beat_age: float


class Unserved(TypedDict):
    """Ready nodes wait here, and no living scheduler takes them."""

    queue: str
    executor: str | None
    workflows: list[str]


class SchedulerPage(Page[Scheduler]):
    """Schedulers, and what none of them serves."""

    unserved: list[Unserved]


class NodeType(TypedDict):
    """A node type that is installed."""

    name: str
    usable: bool
    problem: str | None
    description: str | None
    config_schema: Json | None


class ReadyCheck(TypedDict):
    """One thing that must be well before workflows run."""

    name: str
    ok: bool
    detail: str


class Readiness(TypedDict):
    """Whether the system can run workflows."""

    status: str
    checks: list[ReadyCheck]

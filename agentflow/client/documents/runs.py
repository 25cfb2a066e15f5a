"""Runs and what is in them."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from agentflow.client.documents.common import Done, Json


class Run(TypedDict):
    """A run."""

    id: str
    workflow: str
    version: int
    state: str
    triggered_by: str
    params: Json
    logical_date: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    note: str | None
    timed_out: bool
    event_seq: int
    request_id: str | None
    total_nodes: int
    open_nodes: int
    state_counts: dict[str, int] | None
    backfill: NotRequired[str | None]


class NewRun(Run):
    """A run that was just created."""

    paused: bool


class RunError(TypedDict):
    """Why something failed."""

    type: str
    message: str
    exit_code: NotRequired[int | None]
    signal: NotRequired[str | int | None]
    traceback: NotRequired[str | None]


class SubRun(TypedDict):
    """A run that a `workflow` node made."""

    address: str
    id: str
    state: str


class NodeRun(TypedDict):
    """A node within a run."""

    node: str
    map_index: int | None
    state: str
    attempt: int
    executor: str | None
    ready_at: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    resume_at: str | None
    output: Any
    error: RunError | None
    sub_runs: NotRequired[list[SubRun]]


class RunWithNodes(Run):
    """A run and its nodes, in the order of the workflow."""

    nodes: list[NodeRun]


class ClearedNode(TypedDict):
    """A node run that is cleared, in its state from before."""

    run: str
    node: str
    map_index: int | None
    state: str


class Cleared(Done):
    """What a clear does, or would do."""

    cleared: list[str]
    nodes: list[ClearedNode]


class Attempt(TypedDict):
    """One try of a node run."""

    attempt: int
    state: str
    executor: str
    scheduler_id: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    error: RunError | None
    log_lines: int


class LogLine(TypedDict):
    """A line that a node wrote."""

    node: str
    map_index: int | None
    attempt: int
    seq: int
    at: str
    stream: str
    level: str
    text: str


class Reason(TypedDict):
    """One thing that keeps a node from going on."""

    code: str
    fact: str
    advice: str
    detail: Json


class Why(TypedDict):
    """Why a node is not running."""

    run: str
    node: str
    run_state: str
    state: str | None
    summary: str
    reasons: list[Reason]

"""What the API takes and answers about runs and node runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from agentflow.runs import MARKABLE, MAX_NOTE
from agentflow.states import NodeRunState, RunState, TriggeredBy
from webserver.arguments import Body, Path, Query
from webserver.pages import Answer, Page, PageQuery

MOST_AT_ONCE = 100  #: Runs of one bulk action.

#: A moment; without an offset it is in UTC.
Moment = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]
Address = Annotated[str, Field(max_length=4000, description="`fetch`, or `fetch[3]` for an index of a mapped node")]


class RunPath(Path):
    """Which run."""

    id: str = Field(max_length=100)


class NodePath(RunPath):
    """Which node run: an address within the run, percent-encoded."""

    node: str = Field(max_length=4000, description="`fetch`, `fetch[3]`, `loop.sub[2].fetch`")


class AttemptPath(NodePath):
    """Which attempt of it."""

    attempt: int = Field(ge=1, le=32767)


class Run(Answer):
    """A run."""

    id: str
    workflow: str
    version: int
    state: RunState
    triggered_by: TriggeredBy
    params: dict[str, Any]
    logical_date: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    note: str | None
    timed_out: bool
    event_seq: int = Field(description="Grows with every change of the run")
    request_id: str | None = Field(description="Of the request that made it")
    backfill: str | None = Field(None, description="Id of the backfill that made it")
    total_nodes: int = Field(description="Node runs; 0 before it starts")
    open_nodes: int = Field(description="Node runs that have not ended")
    state_counts: dict[str, int] | None = Field(description="Node runs by state; null until a moment after its end")


class NewRun(Run):
    """A run that was just created."""

    paused: bool = Field(description="The workflow is paused: the run stays queued until it is unpaused")


class RunPage(Page[Run]):
    """Runs, the newest first."""


class RunQuery(PageQuery):
    """Which runs."""

    workflow: str | None = Field(None, max_length=100)
    state: list[RunState] = Field([], max_length=10, description="In one of these states")
    triggered_by: list[TriggeredBy] = Field([], max_length=20, description="Started by one of these")
    created_from: Moment | None = Field(None, description="Created at or after")
    created_to: Moment | None = Field(None, description="Created before")
    logical_from: Moment | None = Field(None, description="With this logical date or a later one")
    logical_to: Moment | None = Field(None, description="With an earlier logical date")
    search: str | None = Field(
        None, max_length=200, description="Words of the note, the params or the workflow's name, or the begin of an id"
    )
    backfill: str | None = Field(None, max_length=100, description="Made by this backfill")
    hidden: bool = Field(False, description="Runs of `agentflow run FILE` too")


class RunPlaceQuery(Query):
    """Which of the runs that hang on it."""

    address: str | None = Field(
        None, max_length=4000, description="`loop.sub[2]`, `loop.sub[2].fetch`: the sub-run that this leads into"
    )


class RunBody(Body):
    """A run to start."""

    params: dict[str, Any] = Field({}, description="By name")
    logical_date: Moment | None = Field(None, description="The date it stands for; unique per workflow")
    note: str | None = Field(None, max_length=MAX_NOTE)


class SubRun(Answer):
    """A run that a `workflow` node made."""

    address: str
    id: str
    state: RunState


class Error(Answer):
    """Why something failed."""

    type: str
    message: str
    exit_code: int | None = None
    signal: str | int | None = None
    traceback: str | None = None


class NodeRun(Answer):
    """A node within a run."""

    node: str
    map_index: int | None
    state: NodeRunState
    attempt: int = Field(description="Number of the newest attempt; 0 before the first")
    executor: str | None
    ready_at: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    resume_at: str | None
    output: Any = Field(description="JSON; a large one is `{$ref, bytes, preview}`")
    error: Error | None
    sub_runs: list[SubRun] = Field([], description="Of a `workflow` node")


class NodeRunPage(Page[NodeRun]):
    """Node runs in the order of the workflow, then by index."""


class NodeRunQuery(PageQuery):
    """Which node runs."""

    node: str | None = Field(None, max_length=100, description="Only this node, with its indexes")
    state: list[NodeRunState] = Field([], max_length=20, description="In one of these states")


class ClearBody(Body):
    """What to run again."""

    nodes: list[Address] | None = Field(None, max_length=10_000, description="Left out: all")
    upstream: bool = Field(False, description="And everything before these nodes")
    downstream: bool = Field(False, description="And everything after these nodes")
    only_failed: bool = Field(False, description="Only what did not succeed")
    newest_version: bool = Field(False, description="Go over to the newest version, if its graph is the same")
    force: bool = Field(False, description="Stop attempts that are under way; without it they are a conflict")
    dry_run: bool = Field(False, description="Only tell what would run again")


class ClearedNode(Answer):
    """A node run that is cleared, in its state from before."""

    run: str
    node: str
    map_index: int | None
    state: NodeRunState


class Done(Answer):
    """What became of an action."""

    id: str
    changed: bool


class Cleared(Done):
    """What a clear does, or would do."""

    cleared: list[str] = Field(description="Addresses")
    nodes: list[ClearedNode]


class RerunBody(Body):
    """How to run again."""

    newest_version: bool = Field(False, description="With the newest version instead of the run's own")


class NoteBody(Body):
    """A remark; an empty one removes it."""

    note: str = Field(max_length=MAX_NOTE)


class MarkBody(Body):
    """The state to set."""

    state: Literal["success", "failed", "skipped"]


assert set(MARKABLE) == {"success", "failed", "skipped"}


class BulkBody(Body):
    """An action on several runs, each by itself: what one refuses keeps no other from it."""

    action: Literal["cancel", "clear", "rerun", "delete", "note"]
    ids: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=MOST_AT_ONCE)
    clear: ClearBody = Field(ClearBody(), description="How to clear")
    newest_version: bool = Field(False, description="Of reruns")
    note: str = Field("", max_length=MAX_NOTE)


class BulkItem(Answer):
    """What became of one run."""

    id: str
    status: int = Field(description="What the action on this run alone would have answered")
    changed: bool
    new_id: str | None = Field(description="Of a rerun: the new run")
    error: dict[str, Any] | None = Field(description="A problem document")


class BulkAnswer(Answer):
    """What became of each, in the order of the request."""

    items: list[BulkItem]


class Attempt(Answer):
    """One try of a node run."""

    attempt: int
    state: str
    executor: str
    scheduler_id: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    error: Error | None
    log_lines: int = Field(description="Number of its newest stored line")


class AttemptPage(Page[Attempt]):
    """Attempts, the first one first."""


class LogQuery(Query):
    """Which lines."""

    after: int = Field(0, ge=0, le=2**31 - 1, description="Only lines after this number")
    limit: int = Field(1000, ge=1, le=5000, description="At most so many lines")


class LogLine(Answer):
    """A line of a log."""

    seq: int = Field(description="Its number in the attempt, from 1")
    at: str
    stream: str
    level: str
    text: str


class RunLogQuery(Query):
    """Which lines of a run's log."""

    node: str | None = Field(None, max_length=4000, description="Only of this node, index or sub-run")
    attempt: int | None = Field(None, ge=1, le=32767, description="Only of this attempt")
    after: int = Field(0, ge=0, le=2**31 - 1, description="Only lines after this number, of each attempt")
    until: int | None = Field(None, ge=1, le=2**31 - 1, description="Only lines up to this number, of each attempt")
    limit: int = Field(1000, ge=1, le=5000, description="At most so many lines")
    cursor: str | None = Field(None, max_length=1000, description="`next_cursor` of the page before")


class RunLogLine(LogLine):
    """A line of a run's log."""

    node: str
    map_index: int | None
    attempt: int


class RunLogPage(Page[RunLogLine]):
    """Lines in order of node, index, attempt and line."""


class Logs(Answer):
    """A range of an attempt's log."""

    items: list[LogLine]
    next: int | None = Field(description="Ask again with this as `after`; null: the log is complete")
    truncated_bytes: int = Field(description="Text that was over the limit of the attempt and is not kept")
    gaps: list[tuple[int, int]] = Field(description="First and last numbers of lines that could not be stored")


class Config(Answer):
    """The config of a node run, as its attempts get it."""

    config: dict[str, Any] = Field(description="As it stands in the version")
    rendered: dict[str, Any] | None = Field(description="With its templates filled in; `***` stands for secrets")
    problem: str | None = Field(description="Why it cannot be rendered")


class Reason(Answer):
    """One thing that keeps a node run from going on."""

    code: str
    fact: str
    advice: str
    detail: dict[str, Any]


class Why(Answer):
    """Why a node run is not running."""

    run: str
    node: str
    run_state: RunState
    state: NodeRunState | None
    summary: str
    reasons: list[Reason]

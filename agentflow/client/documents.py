"""What the API answers, field by field as it names them; a test compares this page with the server's schemas."""

from __future__ import annotations

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

Item = TypeVar("Item")
Json = dict[str, Any]


class Page(TypedDict, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None  #: Where the next page begins; None at the end.


class Changed(TypedDict):
    """What became of an action on something that has a name."""

    name: str
    changed: bool


class Done(TypedDict):
    """What became of an action on something that has an id."""

    id: str
    changed: bool


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


class BackfillCounts(TypedDict):
    """Dates and runs of a backfill."""

    total: int
    skipped: int
    left: int
    done: int
    queued: int
    running: int
    success: int
    failed: int
    cancelled: int


#: `from` is a word of Python's.
Backfill = TypedDict(
    "Backfill",
    {
        "id": str,
        "workflow": str,
        "version": int,
        "trigger": str,
        "state": str,
        "from": str,
        "to": str,
        "reprocess": str,
        "reverse": bool,
        "max_active_runs": int,
        "params": Json,
        "counts": BackfillCounts,
        "created_at": str,
        "created_by": str,
        "finished_at": str | None,
        "paused": NotRequired[bool],
    },
)


class BackfillDate(TypedDict):
    """A date that a backfill would run, or keep."""

    logical_date: str
    run: str | None
    state: str | None
    action: str


BackfillPreview = TypedDict(
    "BackfillPreview",
    {
        "workflow": str,
        "version": int,
        "trigger": str,
        "from": str,
        "to": str,
        "count": int,
        "skipped": int,
        "runs": int,
        "items": list[BackfillDate],
        "more": int,
    },
)


class BackfillCancelled(Done):
    """A backfill that has been ended."""

    cancelled: int


class Pool(TypedDict):
    """A pool."""

    name: str
    slots: int
    description: str
    used: int


class Variable(TypedDict):
    """A variable."""

    name: str
    value: Any
    updated_at: str


class Secret(TypedDict):
    """A secret, without its value."""

    name: str
    key_id: str
    updated_at: str
    updated_by: str


class Connection(TypedDict):
    """A connection, without the values of its secret fields."""

    name: str
    type: str
    config: Json
    secret_fields: list[str]
    updated_at: str
    updated_by: str


class Webhook(TypedDict):
    """A webhook trigger, without its token."""

    name: str
    workflow: str
    paused: bool
    prefix: str | None
    signed: bool
    rotated_at: str | None
    rotated_by: str | None
    used_at: str | None


class NewToken(TypedDict):
    """A webhook's token, shown once."""

    name: str
    changed: bool
    token: str
    path: str
    signing_secret: str | None


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


class MyWorkspace(TypedDict):
    """Where somebody may work."""

    name: str
    role: str


class Me(TypedDict):
    """Who the caller is, and what they may do."""

    kind: str
    id: str
    name: str
    email: str | None
    display_name: str | None
    workspace: str
    role: str | None
    instance_admin: bool
    scopes: list[str] | None
    workspaces: list[MyWorkspace]


class ReadyCheck(TypedDict):
    """One thing that must be well before workflows run."""

    name: str
    ok: bool
    detail: str


class Readiness(TypedDict):
    """Whether the system can run workflows."""

    status: str
    checks: list[ReadyCheck]


class Membership(TypedDict):
    """A role somewhere."""

    workspace: str
    role: str


class User(TypedDict):
    """A person, or a program with an address."""

    id: int
    email: str
    name: str
    disabled: bool
    instance_admin: bool
    has_password: bool
    has_oidc: bool
    created_at: str
    created_by: str
    memberships: list[Membership]


class Granted(TypedDict):
    """A role that was given."""

    email: str
    workspace: str
    role: str | None
    changed: bool


class ApiKey(TypedDict):
    """A key, without itself."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    user: str | None
    created_at: str
    created_by: str
    expires_at: str | None
    used_at: str | None
    revoked_at: str | None


class NewApiKey(ApiKey):
    """A key with itself: shown once."""

    key: str


class Workspace(TypedDict):
    """A workspace."""

    name: str
    created_at: str
    role: str | None
    members: int

"""The workflow document: one pydantic model per mapping of SEMANTICS section 5.

Models check shapes and single values; what needs the whole document is checked in `agentflow.spec.check`. Optional
keys of nodes are None when not written: then `defaults` of the workflow and the built-in values hold (`policy`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field

from agentflow.spec.fields import (
    INT32,
    Condition,
    Cpu,
    Duration,
    ErrorRule,
    Every,
    Memory,
    NodeId,
    Notes,
    PositiveDuration,
    RuleName,
    SpecModel,
    Text,
    Word,
    WorkflowName,
)

TriggerType = Literal["cron", "interval", "date", "calendar", "event", "webhook"]

Retries = Annotated[int, Field(ge=0, le=100)]
Backoff = Annotated[float, Field(ge=1, le=100)]
Jitter = Annotated[float, Field(ge=0, le=1)]
Priority = Annotated[int, Field(ge=-INT32, le=INT32)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class Resources(SpecModel):
    """What an attempt may use."""

    cpu: Cpu | None = Field(None, description="Cores: 500m, 0.5, 2; a weight on one machine, a limit in a pod")
    memory: Memory | None = Field(None, description="Memory of the attempt's processes: 512Mi, 1G")


class Position(SpecModel):
    """Where the editor draws the node."""

    x: float
    y: float


class Repeat(SpecModel):
    """A node that runs again until it is content."""

    until: Condition = Field(description="One {{ expression }} over the node's output")
    max: Count = Field(description="Rounds at most")


class Defaults(SpecModel):
    """Values of node keys that a node does not write itself."""

    trigger_rule: RuleName | None = Field(None, description="When a node may start, given its upstreams")
    retries: Retries | None = Field(None, description="New attempts after a failure; default 0")
    retry_delay: Duration | None = Field(None, description="Wait before the first retry; default 10s")
    retry_backoff: Backoff | None = Field(None, description="Factor from one wait to the next; default 1")
    retry_max_delay: Duration | None = Field(None, description="Longest wait; default 1h")
    retry_jitter: Jitter | None = Field(None, description="Random share of the wait, 0 to 1")
    retry_on: list[ErrorRule] | None = Field(
        None, description="Error types and exit codes that are retried; default all"
    )
    fail_on: list[ErrorRule] | None = Field(None, description="Error types and exit codes that are not retried")
    timeout: PositiveDuration | None = Field(None, description="Longest time of one attempt; default none")
    executor: Word | None = Field(None, description="Executor by name; default the environment's")
    queue: Word | None = Field(None, description="Queue: which schedulers may take it")
    pool: Word | None = Field(None, description="Pool whose slots it takes; default `default`")
    pool_slots: Count | None = Field(None, description="Slots it takes; default 1")
    priority: Priority | None = Field(None, description="Higher starts first; default 0")
    resources: Resources | None = Field(None, description="CPU and memory of an attempt")


class NodeSpec(Defaults):
    """One step."""

    type: str = Field(min_length=1, max_length=100, description="Node type: python, shell, http, …")
    title: Text | None = Field(None, description="Shown instead of the id")
    notes: Text | None = Field(None, description="For people; Markdown")
    group: Text | None = Field(None, description="Name of the box the editor draws around it")
    needs: Annotated[list[NodeId], FailFast()] = Field(default_factory=list, description="Direct upstreams")
    config: dict[str, Any] = Field(default_factory=dict, description="What the node type asks for; texts are templates")
    when: Condition | None = Field(None, description="One {{ expression }}; false skips the node")
    for_each: Annotated[Any, Field(description="A list or one {{ expression }}: one node run per item")] = None
    max_parallel: Count | None = Field(None, description="Items at once with for_each")
    repeat: Repeat | None = Field(None, description="Run again until an expression holds")
    outputs: dict[str, Any] | None = Field(None, description="Named parts of the output")
    position: Position | None = Field(None, description="Where the editor draws it")


class TriggerSpec(SpecModel):
    """What starts runs. Which keys belong to which type: `agentflow.spec.triggers`."""

    type: TriggerType = Field(description="Kind of trigger")
    name: Text | None = Field(None, description="Identity across versions; default its content")
    params: dict[str, Any] = Field(default_factory=dict, description="Params of the runs it starts")
    start: Text | None = Field(None, description="First instant; ISO 8601")
    end: Text | None = Field(None, description="Last instant; ISO 8601")
    jitter: Duration | None = Field(None, description="Spread of the start, derived from the instant")
    paused: bool = Field(default=False, description="Registered but does not fire")
    cron: Text | None = Field(None, description="Five fields, or @hourly @daily @weekly @monthly @yearly")
    timezone: Text = Field("UTC", description="IANA name")
    catchup: bool = Field(default=False, description="Make up fires missed while no scheduler ran")
    every: Every | None = Field(None, description="Distance of an interval: 15m")
    at: Text | None = Field(None, description="Instant of a date trigger, or time of day of a calendar one")
    workflow: WorkflowName | None = Field(None, description="Workflow whose end is the event")
    workflows: list[WorkflowName] | None = Field(None, description="Several such workflows")
    mode: Literal["any", "all"] | None = Field(None, description="Whether one or all of them must end")
    within: PositiveDuration | None = Field(None, description="Time in which all must end")
    states: list[Literal["success", "failed", "cancelled"]] | None = Field(None, description="Ends that count")


class WorkflowSpec(SpecModel):
    """A whole workflow. Build one with `parse_text`, `parse_document` or `load_file`: they check what models cannot."""

    name: WorkflowName = Field(description="Unique in its workspace; never changes")
    title: Text | None = Field(None, description="Shown instead of the name")
    description: Text | None = Field(None, description="For people; Markdown")
    tags: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        default_factory=list, max_length=100, description="Words to filter by"
    )
    notes: Notes | None = Field(None, description="Notes on the editor's canvas")
    params: dict[NodeId, dict[str, Any]] = Field(
        default_factory=dict, description="A JSON Schema per param; `default` makes it optional"
    )
    triggers: list[TriggerSpec] = Field(default_factory=list, max_length=100, description="What starts runs")
    max_active_runs: Count = Field(16, description="Runs at once; more wait in `queued`")
    concurrency: Count | None = Field(None, description="Node runs of this workflow at once; default no limit")
    timeout: PositiveDuration | None = Field(None, description="Longest time of a run; default none")
    deadline: PositiveDuration | None = Field(None, description="Time after which a late run is reported")
    depends_on_past: bool = Field(default=False, description="Wait for the same node in the run before")
    max_consecutive_failures: Count | None = Field(None, description="Pause the workflow after so many failed runs")
    notify: Annotated[Any, Field(description="Whom to tell of what")] = None
    executor: Word | None = Field(None, description="Executor of nodes that name none")
    queue: Word | None = Field(None, description="Queue of nodes that name none")
    defaults: Defaults = Field(default_factory=Defaults, description="Values of node keys that nodes do not write")
    outputs: dict[str, Any] = Field(default_factory=dict, description="Named results of a run: templates")
    nodes: dict[NodeId, NodeSpec] = Field(min_length=1, description="The steps by id; order is for display")

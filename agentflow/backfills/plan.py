"""What a backfill is asked to do, checked: workflow, trigger, range, params."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog import find_workflow
from agentflow.db.queries.locks import database_now
from agentflow.errors import Conflict, NotFound, UsageError
from agentflow.spec import check_params
from agentflow.states import Reprocess
from agentflow.triggers import CLOCKLESS, InvalidTrigger, build, describe, read_range

MOST_ACTIVE = 1000  #: Runs at once.

_TRIGGERS = text("SELECT id, config FROM trigger WHERE workflow_id = :workflow AND active ORDER BY id")
_SPEC = text("SELECT spec FROM workflow_version WHERE id = :version")


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants a backfill to run."""

    from_: str | datetime  #: First date; without an offset in the trigger's zone.
    to: str | datetime  #: Last date, included; a date alone means its whole day. What lies in the future is left out.
    trigger: str | None = None  #: Its name, needed when several have a clock.
    reprocess: str = "none"  #: Which dates that have a run are run again: `none`, `failed` or `all`.
    reverse: bool = False  #: The latest date first.
    max_active_runs: int | None = None  #: Of this backfill; default: the workflow's.
    params: Mapping[str, Any] = field(default_factory=dict)  #: Of its runs, on top of the trigger's.


@dataclass(frozen=True, slots=True)
class Plan:
    """A backfill that could be made."""

    workspace_id: int
    workflow_id: int
    workflow: str
    paused: bool
    depends_on_past: bool
    version_id: int
    version: int
    trigger_id: int
    trigger: Mapping[str, Any]  #: Its configuration.
    first: datetime
    last: datetime
    total: int  #: Fires in the range.
    reprocess: Reprocess
    reverse: bool
    max_active_runs: int
    params: dict[str, Any]


def make_plan(connection: Connection, name: str, asked: Asked, *, workspace: str) -> Plan:
    """Check what was asked for; the workflow stays until the transaction ends.

    Raises:
        NotFound: No such workflow, version or trigger.
        UsageError: The range or a number is wrong, or several triggers could be meant.
        ParamError: Params are unknown, missing or of the wrong type.
        Conflict: The workflow cannot be backfilled like this.
    """
    workflow = find_workflow(connection, name, workspace=workspace, lock="keep")
    if workflow.published_version_id is None:
        raise NotFound(f"The workflow {name!r} has no version.", hint="apply its file again")
    row = _choose(connection.execute(_TRIGGERS, {"workflow": workflow.id}).all(), asked.trigger, name)
    first, last = _read_ends(row.config, asked.from_, asked.to, database_now(connection))
    active = workflow.max_active_runs if asked.max_active_runs is None else asked.max_active_runs
    if not 1 <= active <= MOST_ACTIVE:
        raise UsageError(f"max_active_runs: {active} is out of range", hint=f"1 to {MOST_ACTIVE}")
    if asked.reprocess not in list(Reprocess):
        raise UsageError(f"reprocess: {asked.reprocess!r} is not known", hint=f"one of {', '.join(Reprocess)}")
    if asked.reverse and workflow.depends_on_past:
        raise Conflict(
            f"Runs of {name!r} wait for the date before theirs (depends_on_past): they cannot be made backwards.",
            hint="leave out --reverse",
        )
    schema = (connection.scalar(_SPEC, {"version": workflow.published_version_id}) or {}).get("params", {})
    return Plan(
        workspace_id=workflow.workspace_id,
        workflow_id=workflow.id,
        workflow=name,
        paused=workflow.paused,
        depends_on_past=workflow.depends_on_past,
        version_id=workflow.published_version_id,
        version=workflow.published_version,
        trigger_id=row.id,
        trigger=row.config,
        first=first,
        last=last,
        total=build(row.config).count(first, last),
        reprocess=Reprocess(asked.reprocess),
        reverse=asked.reverse,
        max_active_runs=active,
        params=check_params(schema, {**row.config.get("params", {}), **asked.params}),
    )


def _choose(rows: Sequence[Any], wanted: str | None, name: str) -> Any:
    """The trigger that is meant: the only one with a clock, or the one of this name."""
    clocks = [row for row in rows if row.config["type"] not in CLOCKLESS]
    if not clocks:
        raise Conflict(f"No trigger of {name!r} has a clock.", hint="a backfill runs the dates of a trigger")
    names = ", ".join(repr(describe(row.config)) for row in clocks)
    if wanted is not None:
        found = [row for row in clocks if describe(row.config) == wanted]
        if not found:
            raise NotFound(f"The workflow {name!r} has no trigger {wanted!r} with a clock.", hint=f"it has {names}")
        return found[0]
    if len(clocks) > 1:
        raise UsageError(f"The workflow {name!r} has several triggers with a clock.", hint=f"--trigger: one of {names}")
    return clocks[0]


def _read_ends(
    config: Mapping[str, Any], from_: str | datetime, to: str | datetime, now: datetime
) -> tuple[datetime, datetime]:
    try:
        first, last = read_range(config, from_, to)
    except InvalidTrigger as error:
        raise UsageError(str(error), hint=error.hint) from error
    if last < first:
        raise UsageError("The range ends before it begins.", hint="exchange --from and --to")
    if first > now:
        raise UsageError("The range lies in the future.", hint="its dates run by themselves when they come")
    return first, min(last, now)  # what comes later runs by itself

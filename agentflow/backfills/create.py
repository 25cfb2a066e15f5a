"""Making a backfill, and showing beforehand what it would do."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Connection, text

from agentflow.backfills.dates import newest_runs_between, runs_again
from agentflow.backfills.plan import Asked, Plan, make_plan
from agentflow.backfills.show import show_backfill
from agentflow.catalog.audit import audit
from agentflow.catalog.graph import make_backfill_groups
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.db.notify import notify_ready
from agentflow.errors import Conflict, UsageError
from agentflow.ids import uuid7
from agentflow.triggers import build, describe, fires_between

MANY = 100_000  #: Fires above which a backfill must be confirmed.
SHOWN = 1000  #: Dates that a preview lists.

_MICROSECOND = timedelta(microseconds=1)

_INSERT = text("""
INSERT INTO backfill (id, workspace_id, workflow_id, version_id, trigger_id, trigger_config, first_date, last_date,
  reprocess, reverse, max_active_runs, params, state, total, created_by)
VALUES (:id, :workspace, :workflow, :version, :trigger, CAST(:config AS json), :first, :last, :reprocess, :reverse,
  :max_active_runs, CAST(:params AS json), 'running', :total, :actor)
ON CONFLICT (workflow_id) WHERE state IN ('running', 'paused') DO NOTHING RETURNING id
""")
_ACTIVE = text("SELECT id FROM backfill WHERE workflow_id = :workflow AND state IN ('running', 'paused')")


def preview_backfill(
    connection: Connection, name: str, asked: Asked, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """What `create_backfill` would do with the same arguments; raises what it would, but for numbers and other backfills.

    Returns:
        `{workflow, version, trigger, from, to, count, skipped, runs, items: [{logical_date, run, state, action}], more}`:
        `count` fires, of which `skipped` keep the run they have; of the dates, in order, the first SHOWN.
    """
    plan = make_plan(connection, name, asked, workspace=workspace)
    fires, found = build(plan.trigger), newest_runs_between(connection, plan.workflow_id, plan.first, plan.last)
    kept = {
        date
        for date, run in found.items()
        if not runs_again(run, plan.reprocess) and fires.next_fire(date - _MICROSECOND) == date
    }
    items = []
    for date in islice(fires_between(fires, plan.first, plan.last, reverse=plan.reverse), SHOWN):
        run = found.get(date)
        items.append(
            {
                "logical_date": iso(date),
                "run": str(run.id) if run else None,
                "state": run.state.value if run else None,
                "action": "skip" if date in kept else "run",
            }
        )
    return {
        "workflow": name,
        "version": plan.version,
        "trigger": describe(plan.trigger),
        "from": iso(plan.first),
        "to": iso(plan.last),
        "count": plan.total,
        "skipped": len(kept),
        "runs": plan.total - len(kept),
        "items": items,
        "more": plan.total - len(items),
    }


def create_backfill(
    connection: Connection,
    name: str,
    asked: Asked,
    *,
    confirmed: bool = False,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Run the dates of a trigger in a range, with the version that is published now.

    Args:
        connection: The caller's transaction.
        name: Of the workflow.
        asked: Which dates, and how.
        confirmed: Also with more than MANY fires.
        actor: Who asks.
        workspace: Whose.

    Returns:
        As `show_backfill`, and `paused`: whether the workflow is, so that nothing of it runs.

    Raises:
        NotFound: No such workflow or trigger.
        UsageError: The range or a number is wrong, several triggers could be meant, or there are too many fires.
        ParamError: Params are unknown, missing or of the wrong type.
        Conflict: There is nothing to run, or another backfill of the workflow is under way.
    """
    plan = make_plan(connection, name, asked, workspace=workspace)
    if plan.total == 0:
        raise Conflict(
            f"The trigger {describe(plan.trigger)!r} does not fire between {iso(plan.first)} and {iso(plan.last)}.",
            hint=f"`agentflow next {name} --from DATE` shows when it does",
        )
    if plan.total > MANY and not confirmed:
        raise UsageError(f"These are {plan.total:,} fires.", hint="pass --yes if you mean it, or a shorter range")
    backfill_id = uuid7()
    if connection.scalar(_INSERT, _values(plan, actor) | {"id": backfill_id}) is None:
        other = connection.scalar(_ACTIVE, {"workflow": plan.workflow_id})
        raise Conflict(
            f"A backfill of {name!r} is under way: {other}.",
            hint="wait for its end, or `agentflow backfill cancel` it: two at once would run dates twice",
        )
    make_backfill_groups(connection, plan.version_id)
    audit(
        connection,
        plan.workspace_id,
        actor,
        "backfill.created",
        str(backfill_id),
        workflow=name,
        **{"from": iso(plan.first), "to": iso(plan.last)},
        total=plan.total,
        reprocess=plan.reprocess,
    )
    notify_ready(connection)
    return show_backfill(connection, str(backfill_id), workspace=workspace) | {"paused": plan.paused}


def _values(plan: Plan, actor: str) -> dict[str, Any]:
    return {
        "workspace": plan.workspace_id,
        "workflow": plan.workflow_id,
        "version": plan.version_id,
        "trigger": plan.trigger_id,
        "config": json.dumps(plan.trigger, ensure_ascii=False),
        "first": plan.first,
        "last": plan.last,
        "reprocess": plan.reprocess.value,
        "reverse": plan.reverse,
        "max_active_runs": plan.max_active_runs,
        "params": json.dumps(plan.params, ensure_ascii=False),
        "total": plan.total,
        "actor": actor,
    }

"""Waits for times and for other runs: the scheduler's own, without executor, slot or process.

A wait begins as a deferred attempt that nobody holds, due at its time. A wait for a run is written down in `run_waiter`
and committed before anybody looks at that run: an end is then seen either by that look or by who tells ends, never by
none of them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from agentflow.db.arrays import ints, uuids
from agentflow.db.engine import transact
from agentflow.db.notify import notify_ready
from agentflow.db.queries.books import Event
from agentflow.db.queries.gates import DueGate, GateResult, WaitPlan
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.settle import FinalNode, Settlement
from agentflow.db.queries.waits import begin_waits, take_waits, wait_on
from agentflow.durations import format_seconds
from agentflow.errors import AgentFlowError, NotFound
from agentflow.nodes.wait import WaitConfig
from agentflow.nodes.wait_conditions import AwaitedRun
from agentflow.states import RUN_FINAL, NodeRunState
from agentflow.workload import ErrorInfo, Outcome
from scheduler.apply import AttemptEnd, finish_attempts
from scheduler.ends import EndedRun
from scheduler.versions import LoadedVersion

SAFETY_LOOK = 300.0  #: Seconds between looks at a run that is waited for; its end is told, so this finds nothing.
_NAMESPACE = uuid.UUID("6d0c1f0e-52a5-4f0b-9d1e-0f6a6b8f7c11")

_WORKFLOW = text("""
SELECT id FROM workflow WHERE workspace_id = :workspace AND name = :name AND source <> 'adhoc'
""")


def dated_key(workflow_id: int, logical_date: datetime) -> uuid.UUID:
    """Stands in `run_waiter` for a workflow's run of a logical date, which may not exist yet."""
    return uuid.uuid5(_NAMESPACE, f"{workflow_id}/{logical_date.astimezone(UTC).isoformat()}")


def plan_wait(
    connection: Connection,
    config: WaitConfig,
    own_date: str | None,
    version: LoadedVersion,
    limit: float | None,
    siblings: Mapping[str, tuple[int, int]],
) -> WaitPlan:
    """What a rendered wait for a time or a run comes to.

    Args:
        connection: In a transaction.
        config: Of the node.
        own_date: Logical date of the waiting run.
        version: The version of the waiting run.
        limit: The node's `timeout` in seconds.
        siblings: Workflows that come before published ones of their name.

    Raises:
        NotFound: There is no such workflow.
        AgentFlowError: No logical date is given, and the waiting run has none.
    """
    gives_up = config.gives_up_after
    return WaitPlan(
        timeout=None if gives_up is None else gives_up.total_seconds(),
        soft_fail=config.soft_fail,
        limit=limit,
        seconds=None if config.for_ is None else config.for_.total_seconds(),
        until=config.until,
        awaited=None if config.run is None else _awaited(connection, config.run, own_date, version, siblings),
    )


def _awaited(
    connection: Connection,
    run: AwaitedRun,
    own_date: str | None,
    version: LoadedVersion,
    siblings: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """The run that is meant; `key` stands for it in `run_waiter`."""
    if run.id is not None:
        named = {"key": run.id, "id": run.id, "workspace": version.workspace_id, "name": f"the run {run.id}"}
        return {**named, "states": run.states}
    name = run.workflow or ""
    by_name = {"workspace": version.workspace_id, "name": name}
    workflow = siblings[name][0] if name in siblings else connection.scalar(_WORKFLOW, by_name)
    if workflow is None:
        raise NotFound(f"there is no workflow {name!r}", hint="apply its file, or correct the name")
    date = run.logical_date or (datetime.fromisoformat(own_date) if own_date else None)
    if date is None:
        raise AgentFlowError(
            f"which run of `{name}` is meant? This run has no logical date",
            hint="give `logical_date`, or wait for a run by its id",
        )
    shown = date.isoformat()
    return {
        "key": str(dated_key(workflow, date)),
        "workflow": workflow,
        "logical_date": shown,
        "name": f"the run of `{name}` for {shown}",
        "states": run.states,
    }


def begin(connection: Connection, settlement: Settlement, results: Sequence[GateResult]) -> list[datetime]:
    """Let these nodes wait; the caller holds their runs' locks. Returns when they are due."""
    waits = [(result.gate, result.wait) for result in results if result.wait is not None]
    if not waits:
        return []
    dues = begin_waits(connection, waits, settlement.now)
    for (gate, _), due in zip(waits, dues, strict=True):
        detail = {"until": due.isoformat()}
        number = gate.attempt + 1
        settlement.record(
            Event(gate.run_id, "node", gate.node_no, gate.map_index, number, NodeRunState.DEFERRED, detail)
        )
    return dues


@dataclass(frozen=True, slots=True)
class WaitResult:
    """What becomes of a wait that was due: its end, or another time."""

    gate: DueGate
    outcome: Outcome | None = None  #: None: it goes on.
    output: str | None = None  #: JSON text.
    error: ErrorInfo | None = None
    resume_at: float = 0.0  #: Seconds since the epoch.


def decide_wait(gate: DueGate, now: float, run: tuple[str, str] | None) -> WaitResult:
    """What becomes of a wait now (pure).

    Args:
        gate: With what it left in `waiting`: `began`, `due`, `awaited`, `timeout`, `soft_fail`, `limit`.
        now: Seconds since the epoch, as all times here.
        run: Id and state of the run that is waited for, if it exists.
    """
    left = gate.waiting or {}
    began, awaited = left["began"], left["awaited"]
    ended = _run_ended(gate, awaited, run) if awaited is not None else None
    if ended is not None and ended.outcome is not Outcome.SUCCESS:
        return ended
    if ended is not None or (awaited is None and now >= left["due"]):
        return WaitResult(gate, Outcome.SUCCESS, json.dumps({"waited_s": round(max(0.0, now - began), 3)}))
    ends = [(began + left[key], key) for key in ("limit", "timeout") if left[key] is not None]
    if ends and now >= min(ends)[0]:
        return _gave_up(gate, min(ends)[1])
    following = now + SAFETY_LOOK if awaited is not None else left["due"]
    return WaitResult(gate, resume_at=min([following, *(at for at, _ in ends)]))


def _run_ended(gate: DueGate, awaited: Mapping[str, Any], run: tuple[str, str] | None) -> WaitResult | None:
    if run is None:
        if "id" not in awaited:
            return None  # it may still come
        message = f"there is no run {awaited['id']}; it may have been deleted"
        return WaitResult(gate, Outcome.FAILED, error=ErrorInfo(type="RunMissing", message=message))
    run_id, state = run
    if run_id == str(gate.run_id):
        message = "a run that waits for itself never ends; name another run"
        return WaitResult(gate, Outcome.FAILED, error=ErrorInfo(type="WaitsForItself", message=message))
    if state not in RUN_FINAL:
        return None
    if state in awaited["states"]:
        return WaitResult(gate, Outcome.SUCCESS)
    message = f"{awaited['name']} ended {state}, not {' or '.join(awaited['states'])} (run {run_id})"
    return WaitResult(gate, Outcome.FAILED, error=ErrorInfo(type="RunEndedOtherwise", message=message))


def _gave_up(gate: DueGate, which: str) -> WaitResult:
    left = gate.waiting or {}
    if which == "limit":
        message = f"did not end within its timeout of {format_seconds(left['limit'])}"
        return WaitResult(gate, Outcome.FAILED, error=ErrorInfo(type="Timeout", message=message))
    if left["soft_fail"]:
        return WaitResult(gate, Outcome.SKIPPED)
    what = "the time had not come" if left["awaited"] is None else f"{left['awaited']['name']} has not ended"
    message = f"gave up after {format_seconds(left['timeout'])}: {what}"
    return WaitResult(gate, Outcome.FAILED, error=ErrorInfo(type="Timeout", message=message))


_BY_ID = text("""
SELECT r.id, r.state FROM unnest(CAST(:ids AS uuid[]), CAST(:workspaces AS int[])) AS k(id, workspace_id)
JOIN run r ON r.id = k.id AND r.workspace_id = k.workspace_id
""")
#: The newest of that date: an older one may have been run again under another trigger.
_BY_DATE = text("""
SELECT k.workflow_id, k.logical_date, r.id, r.state
FROM unnest(CAST(:workflows AS bigint[]), CAST(:dates AS timestamptz[])) AS k(workflow_id, logical_date),
LATERAL (SELECT id, state FROM run WHERE run.workflow_id = k.workflow_id AND run.logical_date = k.logical_date
  AND run.logical_date IS NOT NULL ORDER BY id DESC LIMIT 1) AS r
""")


def decide_waits(engine: Engine, gates: Sequence[DueGate]) -> list[WaitResult]:
    """What becomes of these waits, which are due."""
    if not gates:
        return []
    awaited = [(gate.waiting or {})["awaited"] for gate in gates]
    with engine.begin() as connection:
        now = database_now(connection).timestamp()
        runs = _find_runs(connection, [one for one in awaited if one is not None])
    return [
        decide_wait(gate, now, runs.get(one["key"]) if one is not None else None)
        for gate, one in zip(gates, awaited, strict=True)
    ]


def _find_runs(connection: Connection, awaited: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Id and state of the runs that are waited for, by the key of the wait; those that do not exist are left out."""
    found: dict[str, tuple[str, str]] = {}
    if named := {one["key"]: one for one in awaited if "id" in one}:
        ids = uuids(uuid.UUID(key) for key in named)
        parameters = {"ids": ids, "workspaces": ints(one["workspace"] for one in named.values())}
        found |= {str(row.id): (str(row.id), row.state) for row in connection.execute(_BY_ID, parameters)}
    if dated := {one["key"]: one for one in awaited if "id" not in one}:
        dates = [one["logical_date"] for one in dated.values()]
        workflows = ints(one["workflow"] for one in dated.values())
        for row in connection.execute(_BY_DATE, {"workflows": workflows, "dates": dates}):
            found[str(dated_key(row.workflow_id, row.logical_date))] = (str(row.id), row.state)
    return found


def store_waits(
    connection: Connection, settlement: Settlement, results: Sequence[WaitResult]
) -> tuple[list[FinalNode], list[datetime]]:
    """Store what was decided, unless a node was cancelled, cleared or told meanwhile; the caller holds the runs' locks.

    Returns:
        The node runs that are final now, and when those that wait on are due.
    """
    results = [one for one in results if one.gate.run_id in settlement.runs]
    going_on = [one for one in results if one.outcome is None]
    dues = [datetime.fromtimestamp(one.resume_at, UTC) for one in going_on]
    wait_on(connection, [one.gate for one in going_on], dues)
    ended = [one for one in results if one.outcome is not None]
    ours = take_waits(connection, [one.gate for one in ended])
    ends = [
        AttemptEnd(one.gate.attempt_key, one.outcome, one.output, one.error)
        for one in ended
        if one.outcome is not None and one.gate.attempt_key in ours
    ]
    finals = finish_attempts(connection, settlement, ends)
    return finals, dues


_WAITED_FOR = text("SELECT DISTINCT awaited_run_id FROM run_waiter WHERE awaited_run_id = ANY(CAST(:keys AS uuid[]))")
_WAITERS = text("SELECT DISTINCT run_id FROM run_waiter WHERE awaited_run_id = ANY(CAST(:keys AS uuid[]))")
_TELL = text("""
WITH gone AS (
  SELECT run_id, node_no, map_index FROM run_waiter WHERE awaited_run_id = ANY(CAST(:keys AS uuid[]))
)
UPDATE node_run nr SET resume_at = clock_timestamp()
FROM gone WHERE nr.run_id = gone.run_id AND nr.node_no = gone.node_no AND nr.map_index = gone.map_index
  AND nr.state = 'deferred' AND nr.resume_key = 'wait'
""")
#: Left by waits that were cancelled, cleared or marked.
_SWEEP = text("""
DELETE FROM run_waiter w WHERE NOT EXISTS (
  SELECT FROM node_run nr WHERE nr.run_id = w.run_id AND nr.node_no = w.node_no AND nr.map_index = w.map_index
    AND nr.state = 'deferred' AND nr.resume_key = 'wait')
""")


class TellWaiters:
    """Makes waits for a run due when that run has ended; they look at its state themselves."""

    def wants(self, connection: Connection, ended: Sequence[EndedRun]) -> Collection[uuid.UUID]:
        """Those that somebody waits for."""
        by_key = {key: run.id for run in ended for key in _keys(run)}
        return {by_key[key] for key in connection.scalars(_WAITED_FOR, {"keys": uuids(by_key)})}

    def handle(self, connection: Connection, run: EndedRun) -> None:
        """Wake them."""
        lock_runs(connection, waiters_of(connection, run))
        connection.execute(_TELL, {"keys": uuids(_keys(run))})
        notify_ready(connection)


def waiters_of(connection: Connection, run: EndedRun) -> set[uuid.UUID]:
    """The runs with nodes that wait for it."""
    return set(connection.scalars(_WAITERS, {"keys": uuids(_keys(run))}))


def _keys(run: EndedRun) -> list[uuid.UUID]:
    dated = [] if run.logical_date is None else [dated_key(run.workflow_id, run.logical_date)]
    return [run.id, *dated]


def sweep_waiters(engine: Engine) -> int:
    """Forget who no longer waits; how many."""
    return transact(engine, lambda connection: connection.execute(_SWEEP).rowcount)

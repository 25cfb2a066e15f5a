"""Event triggers: a run of another workflow has ended (SEMANTICS section 4).

Fed by the outbox of ended runs, so each end counts exactly once. Ends of `run FILE`, of sub-runs and of backfills start
nothing: the first two are parts of something else, the third is history that is made up.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, uuids
from agentflow.db.notify import notify_live, notify_ready
from agentflow.db.queries.locks import database_now
from agentflow.durations import parse_duration
from agentflow.errors import AgentFlowError
from agentflow.runs.create import QUEUE_MAX, insert_run
from agentflow.spec import check_params
from agentflow.states import TriggeredBy
from scheduler.ends import EndedRun

log = logging.getLogger(__name__)

MAX_DEPTH = 20  #: Links of a chain of events.


@dataclass(frozen=True, slots=True)
class Arrival:
    """The latest end of one of the workflows that a trigger waits for."""

    workflow: str
    ended_at: datetime
    chain_depth: int


def complete(arrivals: Collection[Arrival], wanted: Collection[str], within: timedelta | None) -> bool:
    """Whether all wanted workflows have ended, and close enough together."""
    by_workflow = {arrival.workflow: arrival.ended_at for arrival in arrivals}
    if not set(wanted) <= by_workflow.keys():
        return False
    times = [by_workflow[workflow] for workflow in wanted]
    return within is None or max(times) - min(times) <= within


_CONCERNED = text("""
SELECT DISTINCT e.id FROM unnest(CAST(:ids AS uuid[]), CAST(:workspaces AS int[]), CAST(:names AS text[]))
  AS e(id, workspace_id, name)
JOIN event_source s ON s.workspace_id = e.workspace_id AND s.workflow = e.name
""")
#: Triggers are locked in order of id: two ends that complete one `all` are told one after the other.
_LISTENING = text("""
SELECT t.id, t.config, w.id AS workflow_id, w.name, w.workspace_id, w.published_version_id AS version_id,
  v.spec -> 'params' AS params
FROM event_source s JOIN trigger t ON t.id = s.trigger_id JOIN workflow w ON w.id = t.workflow_id
JOIN workflow_version v ON v.id = w.published_version_id
WHERE s.workspace_id = :workspace AND s.workflow = :name AND t.type = 'event' AND t.active AND NOT t.paused AND NOT w.paused AND NOT w.missing
ORDER BY t.id FOR NO KEY UPDATE OF t FOR KEY SHARE OF w
""")
_ARRIVE = text("""
INSERT INTO event_arrival (trigger_id, workflow, run_id, ended_at, chain_depth)
VALUES (:trigger, :workflow, :run, :at, :depth)
ON CONFLICT (trigger_id, workflow) DO UPDATE
SET run_id = excluded.run_id, ended_at = excluded.ended_at, chain_depth = excluded.chain_depth
""")
_ARRIVALS = text("SELECT workflow, ended_at, chain_depth FROM event_arrival WHERE trigger_id = :trigger")
_CONSUME = text("DELETE FROM event_arrival WHERE trigger_id = :trigger")
_QUEUED = text("SELECT count(*) FROM run WHERE workflow_id = :workflow AND state = 'queued' AND backfill_id IS NULL")
_FIRE = text("""
INSERT INTO fire (trigger_id, logical_date, run_id, outcome) VALUES (:trigger, :at, :run, :outcome)
ON CONFLICT DO NOTHING
""")


class EventTriggers:
    """Starts the workflows that wait for the end of a run."""

    def wants(self, connection: Connection, ended: Sequence[EndedRun]) -> Collection[uuid.UUID]:
        """Ends of workflows that some trigger names."""
        counted = [run for run in ended if _counts(run)]
        if not counted:
            return []
        names = {"ids": uuids(run.id for run in counted), "names": [run.workflow for run in counted]}
        workspaces = ints(run.workspace_id for run in counted)
        return list(connection.scalars(_CONCERNED, names | {"workspaces": workspaces}))

    def handle(self, connection: Connection, run: EndedRun) -> None:
        """Let each trigger decide."""
        for row in connection.execute(_LISTENING, {"workspace": run.workspace_id, "name": run.workflow}).all():
            if run.state.value not in row.config.get("states", ["success"]):
                continue
            depth = self._depth(connection, row, run)
            if depth is not None:
                self._fire(connection, row, run, depth)

    @staticmethod
    def _depth(connection: Connection, row: Any, run: EndedRun) -> int | None:
        """How long the chain becomes; None while the trigger waits for others."""
        if row.config.get("mode") != "all":
            return run.chain_depth + 1
        connection.execute(
            _ARRIVE,
            {
                "trigger": row.id,
                "workflow": run.workflow,
                "run": run.id,
                "at": run.finished_at,
                "depth": run.chain_depth,
            },
        )
        arrivals = [Arrival(*found) for found in connection.execute(_ARRIVALS, {"trigger": row.id})]
        if not complete(arrivals, row.config["workflows"], _within(row.config)):
            return None
        connection.execute(_CONSUME, {"trigger": row.id})
        return max(arrival.chain_depth for arrival in arrivals) + 1

    @staticmethod
    def _fire(connection: Connection, row: Any, run: EndedRun, depth: int) -> None:
        outcome, started = "run", None
        if depth > MAX_DEPTH:
            outcome = "refused"
            log.warning("event_chain_too_long", extra={"workflow": row.name, "after": run.workflow, "depth": depth})
        elif (connection.scalar(_QUEUED, {"workflow": row.workflow_id}) or 0) >= QUEUE_MAX:
            outcome = "skipped"
            log.warning("fire_skipped", extra={"workflow": row.name, "after": run.workflow})
        else:
            try:
                params = check_params(row.params or {}, row.config.get("params", {}))
            except AgentFlowError as error:
                log.error("trigger_unusable", extra={"workflow": row.name, "trigger": row.id, "error": str(error)})
                return
            started = insert_run(
                connection,
                workspace=row.workspace_id,
                workflow=row.workflow_id,
                version=row.version_id,
                params=params,
                triggered_by=TriggeredBy.EVENT,
                now=database_now(connection),
                actor="system",
                trigger=row.id,
                note=f"after {run.workflow} {run.id}",
                chain_depth=depth,
            )
            notify_ready(connection)
            notify_live(connection, row.workspace_id, {started: 0})
        connection.execute(_FIRE, {"trigger": row.id, "at": run.finished_at, "run": started, "outcome": outcome})


def _counts(run: EndedRun) -> bool:
    return not run.hidden and run.parent_run_id is None and run.triggered_by is not TriggeredBy.BACKFILL


def _within(config: Mapping[str, Any]) -> timedelta | None:
    return parse_duration(config["within"]) if config.get("within") is not None else None

"""Trigger rows of a workflow: an unchanged trigger keeps its clock across versions (SEMANTICS section 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.queries.locks import database_now
from agentflow.spec import TriggerSpec, WorkflowSpec, to_document
from agentflow.triggers import CLOCKLESS, first_fire_at, schedule_text, trigger_identity

_EXISTING = text(
    "SELECT id, identity, active, paused, config FROM trigger WHERE workflow_id = :workflow FOR NO KEY UPDATE"
)
_INSERT = text("""
INSERT INTO trigger (workflow_id, identity, type, config, paused)
VALUES (:workflow, :identity, :type, CAST(:config AS json), :paused)
ON CONFLICT (workflow_id, identity) DO UPDATE SET config = excluded.config, type = excluded.type,
  paused = excluded.paused, active = true
RETURNING id
""")
_SET_NEXT = text("UPDATE trigger SET next_fire_at = :next WHERE id = :id")
_RETIRE = text("UPDATE trigger SET active = false, next_fire_at = NULL WHERE id = :id")


def sync_triggers(connection: Connection, workflow: int, spec: WorkflowSpec) -> None:
    """Make the trigger rows those of the published spec; a new, changed or returning one starts from now."""
    now = database_now(connection)
    existing = {row.identity: row for row in connection.execute(_EXISTING, {"workflow": workflow})}
    kept = set()
    for document in trigger_documents(spec):
        identity = trigger_identity(document)
        kept.add(identity)
        before = existing.get(identity)
        paused = bool(document.get("paused", False))
        row_id = connection.scalar(
            _INSERT,
            {
                "workflow": workflow,
                "identity": identity,
                "type": document["type"],
                "config": json.dumps(document),
                "paused": paused,
            },
        )
        # A named trigger keeps its identity when its schedule changes; its clock it keeps only without a change.
        unchanged = (
            before is not None
            and before.active
            and before.paused == paused
            and schedule_text(before.config) == schedule_text(document)
        )
        # A named trigger may become one of another type: it then listens to nobody, or is due at no time.
        listens = document["type"] == "event"
        if listens and (before is None or before.config != document or not before.active):
            _set_sources(connection, workflow, row_id, document.get("workflows") or [document["workflow"]])
        elif not listens and before is not None and before.config["type"] == "event":
            _set_sources(connection, workflow, row_id, [])
        if not unchanged:
            # Fires missed while it was paused or absent are not made up.
            waits = paused or document["type"] in CLOCKLESS
            following = None if waits else first_fire_at(str(row_id), document, now)
            connection.execute(_SET_NEXT, {"id": row_id, "next": following})
    for identity, row in existing.items():
        if identity not in kept and row.active:
            connection.execute(_RETIRE, {"id": row.id})


_FORGET_SOURCES = text("DELETE FROM event_source WHERE trigger_id = :trigger")
_FORGET_ARRIVALS = text("DELETE FROM event_arrival WHERE trigger_id = :trigger")
_ADD_SOURCES = text("""
INSERT INTO event_source (trigger_id, workspace_id, workflow)
SELECT :trigger, w.workspace_id, s.name FROM workflow w, unnest(CAST(:names AS text[])) AS s(name)
WHERE w.id = :workflow
""")


def _set_sources(connection: Connection, workflow: int, trigger: int, names: Sequence[str]) -> None:
    """Whose ends a trigger waits for; a changed one begins to wait anew."""
    connection.execute(_FORGET_SOURCES, {"trigger": trigger})
    connection.execute(_FORGET_ARRIVALS, {"trigger": trigger})
    connection.execute(_ADD_SOURCES, {"trigger": trigger, "workflow": workflow, "names": list(names)})


def trigger_documents(spec: WorkflowSpec) -> list[dict[str, Any]]:
    """The triggers of a spec as documents."""
    triggers: list[TriggerSpec] = spec.triggers
    return list(to_document(spec).get("triggers", [])) if triggers else []


_RESTART = text(
    "SELECT id, config FROM trigger WHERE workflow_id = :workflow AND active AND NOT paused FOR NO KEY UPDATE"
)


def restart_triggers(connection: Connection, workflow: int) -> None:
    """After a pause or an absence: every trigger goes on from now."""
    now = database_now(connection)
    for row in connection.execute(_RESTART, {"workflow": workflow}).all():
        if row.config["type"] in CLOCKLESS:
            continue
        connection.execute(_SET_NEXT, {"id": row.id, "next": first_fire_at(str(row.id), row.config, now)})

"""Locking runs: the first step of everything that changes one."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from agentflow.db.arrays import uuids
from agentflow.states import RUN_FINAL, RunState


@dataclass(slots=True)
class LockedRun:
    """A run whose row this transaction holds; the counters are written back once, at its end."""

    id: uuid.UUID
    workspace_id: int
    workflow_id: int
    version_id: int
    state: RunState
    event_seq: int
    open_nodes: int
    failed_leaves: int
    cancel_requested: bool
    timed_out: bool

    @property
    def stopping(self) -> bool:
        """Whether nothing of it may start any more."""
        return self.cancel_requested or self.timed_out

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in RUN_FINAL


_LOCK = text(
    "SELECT id, workspace_id, workflow_id, version_id, state, event_seq, open_nodes, failed_leaves,"
    " cancel_requested_at IS NOT NULL AS cancel_requested, timed_out"
    " FROM run WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE"
)
_NOW = text("SELECT clock_timestamp()")


def lock_runs(connection: Connection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, LockedRun]:
    """Lock these runs in id order; ids that do not exist are left out."""
    rows = connection.execute(_LOCK, {"ids": uuids(sorted(set(ids)))})
    return {
        r.id: LockedRun(
            id=r.id,
            workspace_id=r.workspace_id,
            workflow_id=r.workflow_id,
            version_id=r.version_id,
            state=RunState(r.state),
            event_seq=r.event_seq,
            open_nodes=r.open_nodes,
            failed_leaves=r.failed_leaves,
            cancel_requested=r.cancel_requested,
            timed_out=r.timed_out,
        )
        for r in rows
    }


def database_now(connection: Connection) -> datetime:
    """The database's clock: the only one the engine goes by (ENGINE 13)."""
    now = connection.scalar(_NOW)
    assert isinstance(now, datetime)
    return now

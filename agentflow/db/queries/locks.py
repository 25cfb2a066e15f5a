"""Locking runs: the first step of everything that changes one."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import uuids
from agentflow.db.statement import Statement
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


RUN_COLUMNS = (
    "id, workspace_id, workflow_id, version_id, state, event_seq, open_nodes, failed_leaves,"
    " cancel_requested_at IS NOT NULL AS cancel_requested, timed_out"
)
_LOCK = Statement(f"SELECT {RUN_COLUMNS} FROM run WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE")
_NOW = text("SELECT clock_timestamp()")


def lock_runs(connection: Connection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, LockedRun]:
    """Lock these runs in id order; ids that do not exist are left out."""
    rows = _LOCK.run(connection, {"ids": uuids(sorted(set(ids)))})
    return {row.id: locked_run(row) for row in rows}


def locked_run(row: Any) -> LockedRun:
    """A row that has RUN_COLUMNS."""
    return LockedRun(
        id=row.id,
        workspace_id=row.workspace_id,
        workflow_id=row.workflow_id,
        version_id=row.version_id,
        state=RunState(row.state),
        event_seq=row.event_seq,
        open_nodes=row.open_nodes,
        failed_leaves=row.failed_leaves,
        cancel_requested=row.cancel_requested,
        timed_out=row.timed_out,
    )


def database_now(connection: Connection) -> datetime:
    """The database's clock: the only one the engine goes by (ENGINE 13)."""
    now = connection.scalar(_NOW)
    assert isinstance(now, datetime)
    return now

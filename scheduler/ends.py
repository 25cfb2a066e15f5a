"""Tells everybody who waits for the end of a run: its parent, waiting nodes, event triggers, backfills.

The statement that ends a run leaves a row in `run_end`; here it is handled and deleted in one transaction, so each end
is told exactly once, whatever is killed in between.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, text

from agentflow.db.arrays import uuids
from agentflow.db.engine import is_disconnect, transact
from agentflow.db.queries.grid import pack_columns
from agentflow.states import RUN_FINAL, RunState, TriggeredBy
from scheduler.identity import Identity
from scheduler.service import WorkerThread

log = logging.getLogger(__name__)

POLL = 5.0  # seconds
BATCH = 200
SICK_PAUSE = 30.0  #: Seconds before an end whose handler failed is told again.


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that has ended, as its handlers see it."""

    id: uuid.UUID
    workspace_id: int
    workflow_id: int
    workflow: str
    version_id: int
    state: RunState
    triggered_by: TriggeredBy
    trigger_id: int | None
    logical_date: datetime | None
    finished_at: datetime
    hidden: bool  #: `run FILE`.
    chain_depth: int
    parent_run_id: uuid.UUID | None
    parent_node_no: int | None
    parent_map_index: int | None
    parent_seq: int | None


class EndHandler(Protocol):
    """Somebody who acts on ended runs."""

    def wants(self, connection: Connection, ended: Sequence[EndedRun]) -> Collection[uuid.UUID]:
        """Which of these concern it: one query for all; most runs concern nobody."""

    def handle(self, connection: Connection, run: EndedRun) -> None:
        """Act on one, in the transaction that forgets it. Locks of all handlers together: runs that are under way, then
        workflows, as a hop that ends attempts and claims what follows.
        """


_TAKE = text("""
SELECT e.run_id, r.id, r.workspace_id, r.workflow_id, w.name AS workflow, r.version_id, r.state, r.triggered_by,
  r.trigger_id, r.logical_date, r.finished_at, r.hidden, r.chain_depth, r.parent_run_id, r.parent_node_no,
  r.parent_map_index, r.parent_seq
FROM run_end e LEFT JOIN run r ON r.id = e.run_id LEFT JOIN workflow w ON w.id = r.workflow_id
WHERE (r.reserved_for = :me OR NOT :reserved_only) AND e.run_id <> ALL(CAST(:passed AS uuid[]))
  AND (CAST(:only AS uuid) IS NULL OR e.run_id = :only)
ORDER BY e.at LIMIT :limit FOR UPDATE OF e SKIP LOCKED
""")
_FORGET = text("DELETE FROM run_end WHERE run_id = ANY(CAST(:ids AS uuid[]))")


class RunEnds(WorkerThread):
    """Takes ended runs from the outbox and passes them to the handlers, in the order these are given."""

    name = "ends"

    def __init__(
        self, engine: Engine, identity: Identity, handlers: Sequence[EndHandler], on_told: Callable[[], None]
    ) -> None:
        super().__init__()
        self._engine = engine
        self._identity = identity
        self._handlers = handlers
        self._on_told = on_told
        self._sick: dict[uuid.UUID, float] = {}  # run -> time.monotonic() at which it is tried again

    def work(self) -> float:
        """Tell every end that is in the outbox."""
        told = False
        while not self.stopping:
            wanted = transact(self._engine, self._sift)
            if wanted is None:
                break
            for run_id in wanted:
                told |= self._tell(run_id)
        if told:
            self._on_told()
        return min(POLL, SICK_PAUSE if self._sick else POLL)

    def _take(self, connection: Connection, only: uuid.UUID | None = None) -> list[EndedRun | uuid.UUID]:
        """Ends that nobody else is telling; of a run that is open again or deleted only the id."""
        now = time.monotonic()
        self._sick = {run: at for run, at in self._sick.items() if at > now}
        rows = connection.execute(
            _TAKE,
            {
                "me": self._identity.id,
                "reserved_only": self._identity.reserved_only,
                "passed": uuids(self._sick),
                "only": only,
                "limit": BATCH,
            },
        )
        return [_ended(row) if row.id is not None and row.state in RUN_FINAL else row.run_id for row in rows]

    def _sift(self, connection: Connection) -> list[uuid.UUID] | None:
        """Forget the ends that concern nobody; the others, or None when the outbox is empty.

        What lists and the grid show of the runs from now on is kept in their rows.
        """
        found = self._take(connection)
        if not found:
            return None
        ended = [one for one in found if isinstance(one, EndedRun)]
        pack_columns(connection, [run.id for run in ended])
        wanted = {run_id for handler in self._handlers for run_id in handler.wants(connection, ended)}
        ids = [one.id if isinstance(one, EndedRun) else one for one in found]
        connection.execute(_FORGET, {"ids": uuids(run_id for run_id in ids if run_id not in wanted)})
        return [run_id for run_id in ids if run_id in wanted]

    def _tell(self, run_id: uuid.UUID) -> bool:
        try:
            transact(self._engine, partial(self._tell_one, run_id=run_id))
        except Exception as error:
            if is_disconnect(error):
                raise
            # The others must not wait for it, and it must not be lost: it stays, and is tried again later.
            log.exception("end_not_told", extra={"run": str(run_id)})
            self._sick[run_id] = time.monotonic() + SICK_PAUSE
            return False
        return True

    def _tell_one(self, connection: Connection, run_id: uuid.UUID) -> None:
        for run in self._take(connection, run_id):
            if isinstance(run, EndedRun):
                for handler in self._handlers:
                    if run.id in handler.wants(connection, [run]):
                        handler.handle(connection, run)
            connection.execute(_FORGET, {"ids": uuids([run_id])})


def _ended(row: Any) -> EndedRun:
    return EndedRun(
        id=row.id,
        workspace_id=row.workspace_id,
        workflow_id=row.workflow_id,
        workflow=row.workflow,
        version_id=row.version_id,
        state=RunState(row.state),
        triggered_by=TriggeredBy(row.triggered_by),
        trigger_id=row.trigger_id,
        logical_date=row.logical_date,
        finished_at=row.finished_at,
        hidden=row.hidden,
        chain_depth=row.chain_depth,
        parent_run_id=row.parent_run_id,
        parent_node_no=row.parent_node_no,
        parent_map_index=row.parent_map_index,
        parent_seq=row.parent_seq,
    )

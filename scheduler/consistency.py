"""The consistency check: running runs in which nothing can happen any more are counted afresh (ENGINE 3).

A repair means that a counter went wrong: it is an error in the log and in the run's history, and never happens in tests.
"""

from __future__ import annotations

import logging
import uuid
from functools import partial

from sqlalchemy import Connection, Engine, text

from agentflow.db.engine import transact
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.recount import recount_run
from agentflow.db.queries.settle import Settlement
from agentflow.states import RunState
from scheduler.metrics import REPAIRS

log = logging.getLogger(__name__)

QUIET = 30.0  #: Seconds without an event after which a run is looked at.
_SUSPECTS = text("""
SELECT r.id FROM run r
JOIN run_event e ON e.run_id = r.id AND e.seq = r.event_seq
WHERE r.state = 'running' AND e.at < clock_timestamp() - make_interval(secs => :quiet)
  AND NOT EXISTS (
    SELECT 1 FROM node_run nr WHERE nr.run_id = r.id
      AND (nr.state IN ('ready', 'queued', 'running', 'retrying') OR nr.resume_at IS NOT NULL
           OR (nr.state = 'deferred' AND nr.resume_key <> 'map')))
LIMIT 20
""")


class Consistency:
    """Finds and repairs runs that are stuck."""

    def __init__(self, engine: Engine, *, quiet: float = QUIET) -> None:
        self._engine = engine
        self._quiet = quiet
        self.repairs = 0  #: Since start; a metric.

    def check(self) -> int:
        """Look once; how many runs were repaired."""
        with self._engine.begin() as connection:
            suspects = list(connection.scalars(_SUSPECTS, {"quiet": self._quiet}))
        repaired = sum(transact(self._engine, partial(repair, run_id=run_id)) for run_id in suspects)
        self.repairs += repaired
        REPAIRS.inc(repaired)
        return repaired


def repair(connection: Connection, run_id: uuid.UUID) -> bool:
    """Recount a run from its node runs' states; whether that changed anything."""
    runs = lock_runs(connection, [run_id])
    run = runs.get(run_id)
    if run is None or run.state is not RunState.RUNNING:
        return False
    before = (run.open_nodes, run.failed_leaves)
    settlement = Settlement(connection, runs, database_now(connection))
    decided = recount_run(connection, settlement, run_id)
    after = (run.open_nodes, run.failed_leaves)
    if before == after and not decided and run.open_nodes > 0:
        return False
    log.error("run_repaired", extra={"run_id": str(run_id), "before": before, "after": after, "decided": decided})
    settlement.record(Event(run_id, "repaired", detail={"before": before, "after": after, "decided": decided}))
    settlement.write(wake=True)
    return True

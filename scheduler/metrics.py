"""What a scheduler counts, for Prometheus: `/metrics` of its health endpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from executors.base import Executor
from scheduler import guarded
from scheduler.identity import Identity
from scheduler.service import report_failure

log = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

TICKS = Counter("agentflow_scheduler_ticks_total", "Rounds of the loop")
CLAIMED = Counter("agentflow_scheduler_claimed_total", "Attempts claimed", ["executor"])
FINISHED = Counter("agentflow_scheduler_node_runs_finished_total", "Node runs that became final", ["state"])
HOP = Histogram(
    "agentflow_scheduler_hop_seconds",
    "From the end of a node run, as its runner saw it, to handing over what follows",
    buckets=_SECONDS,
)
REFUSED = Counter("agentflow_scheduler_late_results_refused_total", "Results of attempts that were given up before")
FIRES = Counter("agentflow_scheduler_fires_total", "Runs that triggers made")
REPAIRS = Counter("agentflow_scheduler_repairs_total", "Runs whose counters were wrong: a defect")
OPEN = Gauge("agentflow_scheduler_open_attempts", "Attempts that this scheduler's executors hold")
SLOTS = Gauge("agentflow_scheduler_free_slots", "Attempts that an executor would take now", ["executor", "kind"])
BEAT = Gauge("agentflow_scheduler_heartbeat_age_seconds", "Since the last heartbeat that the database acknowledged")
WAITING = Gauge("agentflow_waiting", "In the whole database: runs queued, runs running, node runs ready", ["what"])

COUNTED = 5.0  #: Seconds that counts of the database are kept: scraping must not become a load.
COUNTED_MOST = 100_000  #: More than that is told as that.

_COUNTS = text("""
SELECT (SELECT count(*) FROM run WHERE state = 'queued') AS queued,
  (SELECT count(*) FROM run WHERE state = 'running') AS running,
  (SELECT count(*) FROM (SELECT 1 FROM node_run WHERE state = 'ready' LIMIT :most) AS r) AS ready
""")


class Metrics:
    """What is looked up when somebody asks; the rest is counted where it happens."""

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        executors: Mapping[str, Executor],
        open_attempts: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._identity = identity
        self._executors = executors
        self._lock = threading.Lock()
        self._counted = 0.0  # time.monotonic() of the last look at the database
        OPEN.set_function(open_attempts)
        BEAT.set_function(lambda: identity.beat_age)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        with self._lock:
            self._look()
            return generate_latest(REGISTRY)

    def _look(self) -> None:
        for (name, lanes), free in guarded.free_slots(self._executors).items():
            SLOTS.labels(name, "io" if lanes else "process").set(free)
        if time.monotonic() - self._counted < COUNTED:
            return
        self._counted = time.monotonic()
        try:
            with self._engine.connect() as connection:
                counts = connection.execute(_COUNTS, {"most": COUNTED_MOST}).one()
        except DBAPIError as error:
            report_failure(log, "metrics", error)
            WAITING.clear()  # nobody knows
            return
        for what, count in counts._mapping.items():  # noqa: SLF001 - the documented way to a row's names
            WAITING.labels(what).set(count)

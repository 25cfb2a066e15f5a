"""The daemon's own periodic duties, run by APScheduler in its thread pool: none may delay the loop or a heartbeat."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine

from agentflow.catalog import describe_unserved, unserved
from agentflow.db.engine import transact
from agentflow.db.partitions import ensure_partitions, rows_in_default
from agentflow.db.queries.locks import database_now
from scheduler.consistency import Consistency
from scheduler.service import report_failure

log = logging.getLogger(__name__)

CONSISTENCY_EVERY = 30.0  # seconds
UNSERVED_EVERY = 30.0  # seconds
PARTITIONS_EVERY = 6 * 3600.0  # seconds


class Duties:
    """Runs each duty at its interval, never twice at once, and keeps going when one fails."""

    def __init__(self, engine: Engine, owner: Engine) -> None:
        """`owner`: connections of the user who owns the tables, and may make partitions."""
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        # It logs every round at INFO; what matters the duties log themselves.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
        self._interrupts: list[Callable[[], None]] = []
        self.add("consistency", Consistency(engine).check, CONSISTENCY_EVERY)
        self.add("queues", Unserved(engine).look, UNSERVED_EVERY)
        self.add("partitions", lambda: make_partitions(owner), PARTITIONS_EVERY)

    def add(
        self,
        name: str,
        duty: Callable[[], object],
        seconds: float,
        *,
        at_once: bool = False,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        """Run `duty` every so many seconds, the first time after the interval or at once.

        `interrupt` makes a round that may be long end soon; it is called at `stop`.
        """
        if interrupt is not None:
            self._interrupts.append(interrupt)

        def guarded() -> None:
            try:
                duty()
            except Exception as error:  # noqa: BLE001 - a duty that fails is tried again at its next time
                report_failure(log, name, error)

        first = {"next_run_time": datetime.now(UTC)} if at_once else {}
        self._scheduler.add_job(guarded, "interval", seconds=seconds, id=name, **first)

    def start(self) -> None:
        """Start the clock."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for duties in progress and stop."""
        for interrupt in self._interrupts:
            interrupt()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


class Unserved:
    """Warns of queues with ready nodes that no living scheduler serves: once, until that changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._told: set[tuple[str, str | None]] = set()

    def look(self) -> None:
        """Look once."""
        with self._engine.begin() as connection:
            found = {(one["queue"], one["executor"]): one for one in unserved(connection)}
        for key in found.keys() - self._told:
            one = found[key]
            log.warning("queue_unserved", extra=one | {"advice": describe_unserved(one)})
        self._told = set(found)


def make_partitions(engine: Engine) -> None:
    """Make the partitions of the months ahead; raise an alarm when rows landed where no month was made."""
    made = transact(engine, lambda connection: ensure_partitions(connection, database_now(connection)))
    if made:
        log.info("partitions_made", extra={"partitions": made})
    with engine.begin() as connection:
        if rows_in_default(connection):
            log.error("rows_in_default_partition")

"""The loop: apply executor events, release what is due, claim, dispatch (DESIGN section 5).

One thread, one connection. It sleeps until an executor reports a finish, somebody wakes it (NOTIFY, another service), a
retry comes due, or the safety poll; each tick costs O(batch). Starts are held back a moment: an attempt that ends
within it is written once (ENGINE 8).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import is_disconnect, is_retriable
from agentflow.db.queries import claims, due
from agentflow.db.queries.attempts import attempt_id, attempts_to_stop, open_attempts
from agentflow.db.queries.locks import database_now
from agentflow.db.queries.queued import start_small
from agentflow.settings import Settings
from agentflow.workload import ErrorInfo, Finished, Outcome, Started
from executors.base import Executor
from scheduler import guarded, metrics
from scheduler.apply import Applied, Loss, apply_events
from scheduler.claiming import Claimed, Claimer
from scheduler.identity import Identity
from scheduler.inbox import HOLD_STARTS, Inbox
from scheduler.inputs import InputFiles
from scheduler.live import Live
from scheduler.service import BACKOFF_FIRST, BACKOFF_MAX, first_line, report_failure

log = logging.getLogger(__name__)

POLL = 5.0  #: Seconds between looks at the database when nothing wakes the loop: the safety net.
AUDIT = 30.0  #: Seconds between looks for attempts that are ours in the database and unknown here.
BATCH = 500  #: Events applied in one transaction.


class Loop:
    """Moves node runs; woken through its inbox."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        identity: Identity,
        executors: Mapping[str, Executor],
        inbox: Inbox,
        files: InputFiles,
        *,
        on_due: Callable[[], None] = lambda: None,
        on_runs_changed: Callable[[], None] = lambda: None,
        on_dead: Callable[[], None] = lambda: None,
        start_runs: bool = False,
    ) -> None:
        """`start_runs`: start small queued runs too; the others are left to the starter."""
        self._engine = engine
        self._identity = identity
        self._executors = executors
        self._inbox = inbox
        self._on_due = on_due
        self._on_runs_changed = on_runs_changed
        self._on_dead = on_dead
        self._start_runs = start_runs
        self._claimer = Claimer(
            settings, identity, executors, files, on_declared_dead=inbox.wake, on_prepared=inbox.wake
        )
        self._connection: Connection | None = None
        self._starts: dict[str, tuple[float, Started]] = {}
        self._pending: list[Started | Finished] = []
        self._live = Live()
        self._oldest = uuid.UUID(int=0)
        self._next_due = 0.0  # time.monotonic() of the next look for retries and evaluations
        self._look = True  # whether the database may hold something that no event told of
        self._audit_at = (
            0.0  # time.monotonic() of the next look for open attempts in the database that are unknown here
        )
        self._unfinished = False  # whether there is more to claim than was claimed yet
        self._ended: set[int] = set()  # workflows whose runs have ended: their next ones may start
        self._waiting_after = 0  # the last workflow with queued runs that was looked at, while there are many
        self._draining = False
        self._drained = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life cycle -----------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    @property
    def open_attempts(self) -> int:
        """Attempts that the executors hold."""
        return len(self._live)

    def drain(self) -> None:
        """Claim nothing more; go on applying what the executors report."""
        self._draining = True
        self._inbox.wake()

    def wait_drained(self, timeout: float) -> bool:
        """Whether every attempt has ended, and its end is stored, within so many seconds of a `drain`."""
        return self._drained.wait(timeout)

    def stop(self) -> None:
        """Claim nothing more, apply what the executors have reported, stop."""
        self._draining = True
        self._stopping.set()
        self._inbox.wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._drop_connection()

    def _run(self) -> None:
        backoff = BACKOFF_FIRST
        while True:
            stopping = self._stopping.is_set()
            try:
                self.tick()
                backoff = BACKOFF_FIRST
            except Exception as error:  # noqa: BLE001 - nothing may end the loop
                report_failure(log, "loop", error)
                self._drop_connection()
                self._look, self._audit_at = True, 0.0
                if stopping:
                    return
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, BACKOFF_MAX)
                continue
            if stopping:
                return
            if self._inbox.wait(self._pause()):
                self._look = True

    def _pause(self) -> float:
        if self._look or self._unfinished:
            return 0.0
        now = time.monotonic()
        wait = self._next_due - now
        if self._starts:
            wait = min(wait, min(since for since, _ in self._starts.values()) + HOLD_STARTS - now)
        if (claim := self._claim_in()) is not None:
            wait = min(wait, claim)
        return max(0.0, wait)

    # -- one tick --------------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Apply, release, claim, dispatch, once."""
        metrics.TICKS.inc()
        if self._identity.is_dead and not self._draining:
            self._on_dead()
            for attempt in self._claimer.forget_prepared():
                self._live.discard(attempt)
        connection = self._connected()
        look, self._look = self._look, False
        if self._draining:
            self._claimer.give_back_prepared()
        for event in self._claimer.submit_prepared():
            self._inbox.emit(event)
        self._collect()
        if time.monotonic() >= self._next_due:
            look = True
            self._release(connection)
        if self._pending:
            self._advance_all(connection)
        if look:
            self._advance_all(connection, start=self._start_runs)
        elif self._unfinished or self._claim_in() == 0:
            self._claim_on(connection)
        if look and self._survey(connection):
            self._advance_all(connection)
        if self._draining and not self._live and not self._pending:
            self._drained.set()

    def _claim_in(self) -> float | None:
        return None if self._draining else self._claimer.due_in()

    def _advance_all(self, connection: Connection, *, start: bool = False) -> None:
        self._claimer.begin()
        self._claim_on(connection, start=start)

    def _claim_on(self, connection: Connection, *, start: bool = False) -> None:
        self._unfinished, more = False, True
        while self._pending or (more and not self._draining):
            events = bool(self._pending)
            more = self._advance(connection, start=start)
            start = start and events
            if more and self._inbox.holds_ends:
                self._unfinished = True  # where thousands of groups wait, this may be long: what has ended frees slots
                return

    def _advance(self, connection: Connection, *, start: bool = False) -> bool:
        """Apply a batch and claim what follows in one transaction: a hop costs one flush of the log, not two.

        With `start`, small queued runs are started in it first: from the trigger to the first node it is one flush too.

        Returns:
            Whether there may be more to claim.
        """
        batch = self._pending[:BATCH]
        try:
            with connection.begin():
                applied = apply_events(connection, batch) if batch else None
                # Not after events: those hold runs, and workflows are locked before runs.
                ended = self._ended.copy()
                found = (
                    start_small(connection, ended, after=self._waiting_after)
                    if start and not batch and not self._draining
                    else None
                )
                claimed = Claimed()
                if not self._draining:
                    claimed = self._claimer.claim(connection, self._oldest, self._live.out)
        except Exception as error:
            if is_disconnect(error):
                raise
            if not is_retriable(error):
                if not batch:
                    raise  # nothing to blame: pause, then try again
                log.error("batch_failed", extra={"events": len(batch)}, exc_info=error)
                self._apply_singly(connection, batch)
                self._settle_batch(batch)
            return True
        self._settle_batch(batch)
        if applied is not None:
            self._after(applied)
        self._live.add(claimed.places)
        self._count(claimed, batch)
        for event in self._claimer.submit(claimed):
            self._inbox.emit(event)
        started = found is not None and bool(found.started)
        if found is not None:
            self._ended -= ended
            self._waiting_after = found.end or 0
        if started:
            self._on_due()
            self._on_runs_changed()  # they may have timeouts, which the starter watches
        return claimed.more or started

    @staticmethod
    def _count(claimed: Claimed, batch: list[Started | Finished]) -> None:
        for executor, count in Counter(executor for executor, _ in claimed.places.values()).items():
            metrics.CLAIMED.labels(executor).inc(count)
        ends = [event.finished_at for event in batch if isinstance(event, Finished)]
        if ends and claimed.workloads:
            metrics.HOP.observe(max(0.0, (datetime.now(UTC) - min(ends)).total_seconds()))

    def _settle_batch(self, batch: list[Started | Finished]) -> None:
        del self._pending[: len(batch)]
        for event in batch:
            if isinstance(event, Finished):
                self._live.discard(event.attempt_id)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            try:
                self._connection.invalidate()
                self._connection.close()
            except DBAPIError:
                log.debug("connection_close_failed")
            self._connection = None

    # -- events ----------------------------------------------------------------------------------------------------
    def _collect(self) -> None:
        """Take what the executors reported; hold starts back until they are old enough."""
        now = time.monotonic()
        for event in self._inbox.take():
            if isinstance(event, Started):
                self._starts[event.attempt_id] = (now, event)
            else:
                self._starts.pop(event.attempt_id, None)
                self._pending.append(event)
        for key, (since, start) in list(self._starts.items()):
            if now - since >= HOLD_STARTS or self._stopping.is_set():
                self._pending.append(start)
                del self._starts[key]

    def _apply_singly(self, connection: Connection, batch: list[Started | Finished]) -> None:
        """One event that the database refuses must not take the others along."""
        for event in batch:
            try:
                with connection.begin():
                    applied = apply_events(connection, [event])
            except Exception as error:
                if is_disconnect(error):
                    raise
                self._apply_rejected(connection, event, error)
                continue
            self._after(applied)

    def _apply_rejected(self, connection: Connection, event: Started | Finished, error: Exception) -> None:
        """The database refuses this very result: the attempt fails with that, and the rest goes on."""
        log.error("event_rejected", extra={"attempt": event.attempt_id}, exc_info=error)
        if isinstance(event, Started):
            return
        info = ErrorInfo(type="ResultRejected", message=f"the result could not be stored: {first_line(error)}")
        failed = Finished(
            event.attempt_id, event.token, Outcome.FAILED, event.started_at, event.finished_at, None, info
        )
        try:
            with connection.begin():
                self._after(apply_events(connection, [failed]))
        except Exception as again:
            if is_disconnect(again):
                raise
            # Nothing may stop the loop: the audit finds the attempt without an owner and writes it off.
            log.error("event_dropped", extra={"attempt": event.attempt_id}, exc_info=again)

    def _after(self, applied: Applied) -> None:
        if applied.due:
            self._on_due()
            self._next_due = time.monotonic()
        if applied.next_resume is not None:
            wait = (applied.next_resume - datetime.now(UTC)).total_seconds()
            self._due_in(wait)
        if applied.ended:
            self._look = True  # another run of the workflow may start
            self._ended |= applied.ended_workflows
            self._on_runs_changed()
        for state, count in applied.finals.items():
            metrics.FINISHED.labels(state).inc(count)
        if applied.refused:
            metrics.REFUSED.inc(applied.refused)
            log.warning("late_results_refused", extra={"count": applied.refused})

    def _due_in(self, seconds: float) -> None:
        self._next_due = min(self._next_due, time.monotonic() + max(0.0, seconds))

    # -- the database's side -----------------------------------------------------------------------------------------
    def _survey(self, connection: Connection) -> bool:
        """What others may have changed: the bound of open runs, runs to be stopped, attempts without an owner.

        Returns:
            Whether an older run is open than the claims looked at: one that was cleared.
        """
        before = self._oldest
        with connection.begin():
            self._oldest = claims.oldest_open_run(connection)
            stops = attempts_to_stop(connection, self._identity.id, self._oldest, self._live) if self._live else []
        self._stop_attempts(stops)
        if time.monotonic() >= self._audit_at:
            self._write_off_unknown(connection)
        return self._oldest < before

    def _stop_attempts(self, ids: list[str]) -> None:
        self._claimer.stop_preparing(ids)
        by_executor: dict[str, list[str]] = {}
        for attempt in ids:
            if attempt in self._live:
                by_executor.setdefault(self._live.executor_of(attempt), []).append(attempt)
        for name, found in by_executor.items():
            guarded.cancel(name, self._executors[name], found)

    def _release(self, connection: Connection) -> None:
        """Make retries ready whose time has come, and find out when the next one is due; at least every POLL seconds."""
        with connection.begin():
            now = database_now(connection)
            cascade = due.continue_cascades(connection, now, self._oldest)  # first: it locks runs
            due.release_due(connection, now, self._oldest)
            following = due.next_due(connection, self._oldest)
        self._next_due = time.monotonic() + (0.0 if cascade is not None and cascade.unfinished else POLL)
        if cascade is not None and cascade.ended:
            self._on_runs_changed()
        if following is not None:
            # A gate that is being evaluated is due "now" until its lease runs out: never spin on it.
            self._due_in(max((following - now).total_seconds(), 0.05))
            if following <= now:
                self._on_due()

    def _write_off_unknown(self, connection: Connection) -> None:
        """After a broken connection: a claim may have been committed without an answer; nobody runs its attempts.

        And every AUDIT seconds: the server may have been committing still when the connection was made again.
        """
        known = {*self._live, *(event.attempt_id for event in self._pending)}
        with connection.begin():
            open_now = open_attempts(connection, self._identity.id, self._oldest)
            losses = [
                Loss(key, self._identity.id, "the claim was committed but its answer was lost")
                for key in open_now
                if attempt_id(key) not in known
            ]
            if losses:
                log.warning("attempts_written_off", extra={"count": len(losses)})
                self._after(apply_events(connection, [], losses))
        self._audit_at = time.monotonic() + AUDIT

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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import is_disconnect
from agentflow.db.queries import attempts as attempt_queries
from agentflow.db.queries import claims, due
from agentflow.db.queries.locks import database_now
from agentflow.ids import fencing_token
from agentflow.settings import Settings
from agentflow.workload import ErrorInfo, Finished, Outcome, Started
from executors.base import Executor
from scheduler import choose
from scheduler.apply import Applied, Loss, apply_events
from scheduler.dispatch import Dispatcher
from scheduler.identity import Identity
from scheduler.inbox import Inbox
from scheduler.service import BACKOFF_FIRST, BACKOFF_MAX, report_failure

log = logging.getLogger(__name__)

POLL = 5.0  #: Seconds between looks at the database when nothing wakes the loop: the safety net.
HOLD_STARTS = 0.03  #: Seconds a start waits for its finish before it is worth a write.
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
        *,
        on_due: Callable[[], None] = lambda: None,
        on_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._identity = identity
        self._executors = executors
        self._inbox = inbox
        self._on_due = on_due
        self._on_ended = on_ended
        self._dispatcher = Dispatcher(settings)
        self._connection: Connection | None = None
        self._starts: dict[str, tuple[float, Started]] = {}
        self._pending: list[Started | Finished] = []
        self._live: dict[str, str] = {}  # attempt id -> executor, of attempts that have not reported their end
        self._oldest = uuid.UUID(int=0)
        self._next_due: float | None = None  # time.monotonic()
        self._look = True  # whether the database may hold something that no event told of
        self._suspect = True  # whether open attempts in the database may be unknown here
        self._draining = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life cycle -----------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Claim nothing more; go on applying what the executors report."""
        self._draining = True

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
                self._look = self._suspect = True
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
        now = time.monotonic()
        waits = [POLL]
        if self._next_due is not None:
            waits.append(self._next_due - now)
        if self._starts:
            waits.append(min(since for since, _ in self._starts.values()) + HOLD_STARTS - now)
        wait = max(0.0, min(waits))
        if wait == POLL:
            self._look = True
        return wait

    # -- one tick --------------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Apply, release, claim, dispatch, once."""
        connection = self._connected()
        look, self._look = self._look, False
        applied = self._apply(connection)
        if look:
            self._survey(connection)
        elif self._next_due is not None and time.monotonic() >= self._next_due:
            look = True
            self._release(connection)
        if (look or applied) and not self._draining:
            while self._claim(connection):
                pass

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
    def _apply(self, connection: Connection) -> bool:
        """Apply finishes, and starts that have been held long enough; whether anything ended."""
        now = time.monotonic()
        for event in self._inbox.take():
            if isinstance(event, Started):
                self._starts[event.attempt_id] = (now, event)
            else:
                self._starts.pop(event.attempt_id, None)
                self._pending.append(event)
        for key, (since, event) in list(self._starts.items()):
            if now - since >= HOLD_STARTS or self._stopping.is_set():
                self._pending.append(event)
                del self._starts[key]
        ended = False
        while self._pending:
            batch = self._pending[:BATCH]
            self._apply_batch(connection, batch)
            del self._pending[: len(batch)]
            for event in batch:
                if isinstance(event, Finished):
                    ended = True
                    self._live.pop(event.attempt_id, None)
        return ended

    def _apply_batch(self, connection: Connection, batch: list[Started | Finished]) -> None:
        try:
            with connection.begin():
                applied = apply_events(connection, batch)
        except Exception as error:
            if is_disconnect(error):
                raise
            if len(batch) > 1:
                for event in batch:
                    self._apply_batch(connection, [event])
                return
            self._apply_rejected(connection, batch[0], error)
            return
        self._after(applied)

    def _apply_rejected(self, connection: Connection, event: Started | Finished, error: Exception) -> None:
        """The database refuses this very result: the attempt fails with that, and the rest goes on."""
        log.error("event_rejected", extra={"attempt": event.attempt_id}, exc_info=error)
        if isinstance(event, Started):
            return
        info = ErrorInfo(type="ResultRejected", message=f"the result could not be stored: {str(error).splitlines()[0]}")
        failed = Finished(
            event.attempt_id, event.token, Outcome.FAILED, event.started_at, event.finished_at, None, info
        )
        with connection.begin():
            self._after(apply_events(connection, [failed]))

    def _after(self, applied: Applied) -> None:
        if applied.due:
            self._on_due()
            self._next_due = time.monotonic()
        if applied.next_resume is not None:
            wait = (applied.next_resume - datetime.now(UTC)).total_seconds()
            self._due_in(wait)
        if applied.ended:
            self._on_ended()
        if applied.refused:
            log.warning("late_results_refused", extra={"count": applied.refused})

    def _due_in(self, seconds: float) -> None:
        at = time.monotonic() + max(0.0, seconds)
        self._next_due = at if self._next_due is None else min(self._next_due, at)

    # -- the database's side -----------------------------------------------------------------------------------------
    def _survey(self, connection: Connection) -> None:
        """What nobody told the loop: the bound of open runs, stops requested, due times, attempts without an owner."""
        with connection.begin():
            self._oldest = claims.oldest_open_run(connection)
            stops = attempt_queries.attempts_to_stop(connection, self._identity.id, self._oldest) if self._live else []
        self._stop_attempts([attempt_queries.attempt_id(key) for key in stops])
        self._release(connection)
        if self._suspect:
            self._write_off_unknown(connection)

    def _stop_attempts(self, ids: list[str]) -> None:
        by_executor: dict[str, list[str]] = {}
        for attempt in ids:
            if attempt in self._live:
                by_executor.setdefault(self._live[attempt], []).append(attempt)
        for name, found in by_executor.items():
            self._executors[name].cancel(found)

    def _release(self, connection: Connection) -> None:
        with connection.begin():
            now = database_now(connection)
            due.release_retries(connection, now, self._oldest)
            due.continue_cascades(connection, now, self._oldest)
            following = due.next_due(connection, self._oldest)
        self._next_due = None
        if following is not None:
            # A gate that is being evaluated is due "now" until its lease runs out: never spin on it.
            self._due_in(max((following - now).total_seconds(), 0.05))
            if following <= now:
                self._on_due()

    def _write_off_unknown(self, connection: Connection) -> None:
        """After a broken connection: a claim may have been committed without an answer; nobody runs its attempts."""
        known = self._live.keys() | {event.attempt_id for event in self._pending}
        with connection.begin():
            open_now = attempt_queries.open_attempts(connection, self._identity.id, self._oldest)
            losses = [
                Loss(key, self._identity.id, "the claim was committed but its answer was lost")
                for key in open_now
                if attempt_queries.attempt_id(key) not in known
            ]
            if losses:
                log.warning("attempts_written_off", extra={"count": len(losses)})
                self._after(apply_events(connection, [], losses))
        self._suspect = False

    # -- claim and dispatch ------------------------------------------------------------------------------------------
    def _claim(self, connection: Connection) -> bool:
        """Claim as much as the executors take; whether there may be more."""
        slots = {name: executor.slots_free for name, executor in self._executors.items()}
        if not any(slots.values()) or not self._identity.may_claim:
            return False
        taken, more = self._take(connection, slots)
        if not taken:
            return False
        with connection.begin():
            workloads, failed = self._dispatcher.build(connection, taken)
        executor_of = {attempt_queries.attempt_id(claim.key): claim.executor for claim in taken}
        for name in slots:
            mine = [workload for workload in workloads if executor_of[workload.attempt_id] == name]
            if mine:
                self._live.update((workload.attempt_id, name) for workload in mine)
                self._executors[name].submit(mine)
        for event in failed:
            self._inbox.emit(event)
        return more

    def _take(self, connection: Connection, slots: dict[str, int]) -> tuple[list[claims.Claim], bool]:
        default = self._settings.executor
        with connection.begin():
            groups = claims.ready_groups(
                connection, me=self._identity.id, reserved_only=self._identity.reserved_only, oldest=self._oldest
            )
            served = self._settings.served_queues
            groups = [group for group in groups if group.queue in served and slots.get(group.executor or default)]
            if not groups:
                return [], False
            usage = claims.lock_limits(connection, groups, me=self._identity.id, oldest=self._oldest)
            if usage is None:
                self._identity.declared_dead()
                return [], False
            most = choose.limits(groups, usage, slots, default)
            if not most:
                return [], False
            candidates = claims.take_candidates(connection, most, oldest=self._oldest)
            by_id = {group.id: group for group in groups}
            chosen = choose.choose(candidates, by_id, usage, slots, default)
            if not chosen:
                return [], False
            taken = [
                claims.Claim(
                    (c.run_id, c.node_no, c.map_index, c.attempt + 1),
                    c.version_id,
                    by_id[c.group_id].executor or default,
                    fencing_token(),
                )
                for c in chosen
            ]
            claims.write_claims(connection, taken, me=self._identity.id, now=database_now(connection))
        return taken, len(candidates) >= sum(most.values())

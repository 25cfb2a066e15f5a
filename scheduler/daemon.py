"""The scheduler process: its services, put together and taken apart in order."""

from __future__ import annotations

import logging
import sys
import threading
import time
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import make_engine, track_backends, transact
from agentflow.db.migrate import require_current
from agentflow.db.roles import require_roles
from agentflow.db.tenancy import SCHEDULER
from agentflow.objects.store import open_store
from agentflow.settings import Settings
from agentflow.workload import ExecutorEvent, Finished
from executors import registry
from executors.base import Executor, ExecutorContext
from scheduler import guarded
from scheduler.duties import Duties, make_partitions
from scheduler.ends import EndHandler, RunEnds
from scheduler.event_triggers import EventTriggers
from scheduler.failure_limits import FailureLimits
from scheduler.fires import Fires
from scheduler.folder import FolderSync
from scheduler.gates import Gates
from scheduler.health import HealthEndpoint
from scheduler.identity import Heartbeat, Identity, leave, register
from scheduler.inbox import Inbox
from scheduler.inputs import InputFiles
from scheduler.logwriter import LogWriter
from scheduler.loop import Loop
from scheduler.metrics import Metrics
from scheduler.notifier import Notifier
from scheduler.outputs import OutputWriter
from scheduler.recovery import Recovery
from scheduler.retention import RETENTION_EVERY, Retention
from scheduler.scratch import Scratch
from scheduler.service import Service, first_line, report_failure
from scheduler.starter import Starter
from scheduler.subruns import TellParent
from scheduler.sweeper import SWEEP_EVERY, Sweeper
from scheduler.waits import TellWaiters, sweep_waiters

log = logging.getLogger(__name__)

#: The last seconds of a shutdown's grace, at most half of it: attempts that still run have got SIGTERM by then.
LAST_CALL = 3.0
LOOK = 0.1  #: Seconds between looks, during a shutdown, whether others have taken over.
#: The loop shares the interpreter with the executor's I/O thread: hand over after this long instead of 5 ms.
SWITCH_INTERVAL = 0.0005  # seconds
WAITERS_EVERY = 3600.0  # seconds


def end_handlers() -> list[EndHandler]:
    """Who acts on ended runs. Those that lock runs come before the one that locks a workflow, as a hop does; that one
    comes before those whom its pause concerns.
    """
    return [TellParent(), TellWaiters(), FailureLimits(), EventTriggers()]


class Daemon:
    """A running scheduler. `reserved_only` makes the small one inside `agentflow run FILE`."""

    def __init__(self, settings: Settings, url: str, *, reserved_only: bool = False) -> None:
        self.settings = settings
        self.identity = Identity(reserved_only=reserved_only)
        self.engine: Engine = make_engine(url, application_name="agentflow-scheduler", keyed=True, role=SCHEDULER)
        self._owner = make_engine(url, pool_size=1, application_name="agentflow-maintenance")  # makes tables
        # As the owner, too: policies, though they let the scheduler see all, cost a fifth of a hop. What the loop sends
        # is fixed: a dozen statements over keys.
        self._of_loop = make_engine(url, pool_size=1, application_name="agentflow-scheduler", keyed=True)
        self._backends = [track_backends(self.engine), track_backends(self._of_loop)]
        self._url = url
        self._logs = LogWriter(url)
        self.inbox = Inbox(self._logs.put)
        self._store = open_store(settings)
        self._outputs = OutputWriter(self._store, self.inbox.emit)
        self._inputs = InputFiles(self.engine, self._store)
        self._executors: dict[str, Executor] = {}
        self._scratch: Scratch | None = None
        self._lives = threading.Lock()  # held while executors are stopped or replaced
        self._closing = False
        self.siblings: dict[str, tuple[int, int]] = {}  # of `run FILE`: the file's other workflows, with versions
        self.gates = Gates(
            self.engine,
            self.identity,
            self.inbox.wake,
            self.siblings,
            files=self._inputs,
            store=self._store,
            output_max=settings.output_max,
        )
        self.ends = RunEnds(self.engine, self.identity, end_handlers(), self._runs_started)
        self.starter = Starter(self.engine, self._runs_started, start_runs=not reserved_only)
        self.loop = Loop(
            self._of_loop,
            settings,
            self.identity,
            self._executors,
            self.inbox,
            self._inputs,
            on_due=self.gates.wake,
            on_runs_changed=self._runs_changed,
            on_dead=self._begin_again,
            start_runs=not reserved_only,
        )
        self._heartbeat = Heartbeat(self.engine, self.identity, self.inbox.wake)
        self._services: list[Service] = [self._heartbeat, self.gates, self.loop, self.starter, self.ends]
        later = [self.starter.wake, self.gates.wake, self.ends.wake]
        if not reserved_only:
            fires = Fires(self.engine, self.starter.wake)
            later.append(fires.wake)
            self._services += [fires, Recovery(self.engine, self.identity, self.inbox.wake), self._duties()]
        self._health: HealthEndpoint | None = None
        if settings.health_port and not reserved_only:
            metrics = Metrics(self.engine, self.identity, self._executors, lambda: self.loop.open_attempts)
            self._health = HealthEndpoint(settings, url, metrics)
            self._services.append(self._health)
        listen = settings.listen_database_url or url
        self._services.append(Notifier(listen, [self.inbox.wake], later, self._is_own))

    def _duties(self) -> Duties:
        duties = Duties(self.engine, self._owner)
        duties.add("waiters", lambda: sweep_waiters(self.engine), WAITERS_EVERY)
        folder = FolderSync(self.engine, self.settings, self.identity)
        duties.add("folder", folder.sync, self.settings.sync_interval, at_once=True, interrupt=folder.stop)
        duties.add("objects", Sweeper(self.engine, self._store).sweep, SWEEP_EVERY)
        retention = Retention(self.settings, self._url, self._store)
        duties.add("retention", retention.work, RETENTION_EVERY, interrupt=retention.stop)
        return duties

    def start(self) -> None:
        """Start everything; executors first, since their zygotes come before any thread of ours.

        Raises:
            SettingsError: The port of the health endpoint cannot be had.
            DatabaseNotReady: The schema is not the one this version needs, or the database's user may not take the
                scheduler's role.
            ExecutorUnknown: An enabled executor is not installed.
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            with self._owner.connect() as connection:
                require_current(connection)
                require_roles(connection, [SCHEDULER])
            if self._health is not None:
                self._health.take_port()
            self._make_partitions()
            self._scratch = Scratch()
            self._start_executors()
            transact(self.engine, partial(register, identity=self.identity, settings=self.settings))
        except BaseException:
            self._discard()
            raise
        self._logs.start()
        self._outputs.start(self._scratch.path / "outputs")
        self.gates.outputs.start(self._scratch.path / "round-outputs")
        self._inputs.start(self._scratch.path / "inputs")
        for service in self._services:
            service.start()
        log.info("scheduler_started", extra={"scheduler": str(self.identity.id), "executors": list(self._executors)})

    def _make_partitions(self) -> None:
        """A database that no scheduler has served for months lacks the current one; `run FILE` has no duties."""
        try:
            make_partitions(self._owner)
        except DBAPIError as error:  # somebody holds the tables: the default partition takes the rows meanwhile
            report_failure(log, "partitions", error)

    def _start_executors(self) -> None:
        assert self._scratch is not None
        self.settings.bundles_dir.mkdir(parents=True, exist_ok=True)
        for name in self.settings.enabled_executors:
            context = ExecutorContext(
                parallelism=self.settings.parallelism,
                bundles_dir=self.settings.bundles_dir,
                work_dir=self._scratch.path / name,
                lease=self.identity.lease,
                options=self.settings.executor_options(name),
            )
            executor = registry.load(name, context)
            executor.start(self._emit)
            self._executors[name] = executor

    def _emit(self, event: ExecutorEvent) -> None:
        """Take an executor's event, from any thread."""
        if isinstance(event, Finished):
            self._inputs.release(event.attempt_id)
        self._outputs.emit(event)

    def _is_own(self, backend: int) -> bool:
        return any(backend in live for live in self._backends)

    def _discard(self) -> None:
        """End what executors are left, let go of the database, remove the scratch folder."""
        self._stop_executors(0)
        for engine in (self.engine, self._of_loop, self._owner):
            engine.dispose()
        if self._scratch is not None:
            self._scratch.remove()

    def _runs_started(self) -> None:
        self.inbox.wake()
        self.gates.wake()

    def _runs_changed(self) -> None:
        self.starter.wake()
        self.ends.wake()

    def _begin_again(self) -> None:
        """Others have taken over our attempts: kill them and go on under a new id. The loop's thread calls it.

        Raises:
            DBAPIError: The new id could not be registered; the old one stays dead, and the loop tries again.
        """
        with self._lives:
            if self._closing:
                return
            self._stop_executors(0)
            self.identity.renew()
            transact(self.engine, partial(register, identity=self.identity, settings=self.settings))
            self._start_executors()
            self.identity.revive()
        log.warning("scheduler_reborn", extra={"scheduler": str(self.identity.id)})

    def _stop_executors(self, grace: float) -> None:
        """All at once: each would wait for its own attempts only."""
        stops = [threading.Thread(target=each.stop, args=[grace]) for each in self._executors.values()]
        for thread in stops:
            thread.start()
        for thread in stops:
            thread.join()

    def stop(self, grace: float | None = None) -> None:
        """Drain and stop: what has not begun is given back, what runs may end, but for the rest see `_drain`.

        Args:
            grace: Seconds that running attempts get; `None`: as the settings say.
        """
        grace = self.settings.shutdown_grace if grace is None else grace
        deadline = time.monotonic() + grace
        self.loop.drain()
        with self._lives:
            self._closing = True
        self._say(state="stopping")
        self._drain(deadline - min(LAST_CALL, grace / 2))
        self._stop_executors(0.0 if self.identity.is_dead else max(0.0, deadline - time.monotonic()))
        self._outputs.stop()
        self._inputs.stop()
        for service in reversed(self._services):
            service.stop()
        self._logs.stop()
        self._say(state="stopped")
        self._discard()
        log.info("scheduler_stopped", extra={"scheduler": str(self.identity.id)})

    def _drain(self, until: float) -> None:
        """Let attempts end until `time.monotonic()` == until. Those that still run are stopped after that, recorded as
        lost and run again later; at once, if others have taken over.
        """
        for name, executor in self._executors.items():
            guarded.drain(name, executor)
        while not self.identity.is_dead and (left := until - time.monotonic()) > 0:
            if self.loop.wait_drained(min(left, LOOK)):
                return

    def _say(self, state: str) -> None:
        try:
            transact(self.engine, partial(leave, identity=self.identity, state=state))
        except Exception as error:  # noqa: BLE001 - the database may be gone; recovery will notice us missing
            log.warning("leave_failed", extra={"error": first_line(error)})

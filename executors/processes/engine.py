"""What an executor of processes does, all in its I/O thread: commands of the scheduler, messages of runners, deaths."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from agentflow.runner import wire
from agentflow.workload import ErrorInfo, ExecutorEvent, Outcome
from executors.base import ExecutorContext
from executors.processes.deadlines import Deadlines
from executors.processes.dispatcher import STUCK, Dispatcher
from executors.processes.handle import Handle, LaneHandle
from executors.processes.io_loop import IoLoop
from executors.processes.item import Item
from executors.processes.lanes import Lanes
from executors.processes.nursery import Nursery
from executors.processes.outcomes import StopReason, died, lost, returned, stopped
from executors.processes.policy import ProcessPolicy
from executors.processes.pool import Pool
from executors.processes.prefetch import Prefetch
from executors.processes.reporter import Reporter, chunk_of
from executors.processes.zygote_link import Exited

log: Final = logging.getLogger(__name__)

_IDLE_MAX: Final = 300.0  # seconds an idle process is kept
_RETIRE_MAX: Final = 5.0  # seconds a retiring process may take to end
_KILL_MAX: Final = 3.0  # seconds after SIGKILL until we stop waiting for the report
_ORPHANED: Final = "the parent of the runner processes was killed"
_NO_PROCESSES: Final = (
    "the parent of the runner processes does not start; the scheduler's standard error says why "
    "(for `subprocess`, AGENTFLOW_SUBPROCESS_ENVIRONMENT may lack a variable that Python needs here)"
)


class Engine:
    """The executor's state. Every method runs in the I/O thread; `outstanding` and `capacity` are read elsewhere."""

    def __init__(self, context: ExecutorContext, policy: ProcessPolicy, emit: Callable[[ExecutorEvent], None]) -> None:
        self._context = context
        self._policy = policy
        self.loop = IoLoop(self._after_round, f"agentflow-{policy.name}")
        self._reporter = Reporter(emit)
        self._prefetch = None if policy.one_attempt else Prefetch()
        self._pool = Pool(context.parallelism, fork=self._fork, discard=self._discard)
        self._dispatcher = Dispatcher(self._pool, self._prefetch, size=context.parallelism, lease=context.lease)
        self._nursery = Nursery(context, policy, self.loop, on_exit=self._on_exit, on_lost=self._on_zygote_lost)
        self._lanes = Lanes(
            policy.io_concurrency,
            loop=self.loop,
            nursery=self._nursery,
            reporter=self._reporter,
            on_started=self._limit_time,
            lease=context.lease,
            number=self._pool.number,
        )
        self._deadlines = Deadlines()
        self._deadline_planned: float | None = None
        self._submitted_at = 0.0  # `time.monotonic()` of the last workload
        self._draining = False
        self._stopping = False
        self._release_planned = False
        self.capacity = context.parallelism  #: Workloads that may be out at once.

    @property
    def finished(self) -> int:
        """How many workloads with a process of their own have ended so far."""
        return self._reporter.finished

    @property
    def finished_in_lanes(self) -> int:
        """How many workloads of I/O lanes have ended so far."""
        return self._reporter.finished_in_lanes

    # Commands

    def start(self) -> None:
        """Start the zygote if it is to be warm; it is ready some hundred milliseconds later, requests wait for it."""
        if not self._policy.lazy:
            self._pool.keep_spare()
        self.loop.call_at(time.monotonic() + _IDLE_MAX, self._trim)

    def submit(self, items: Sequence[Item]) -> None:
        """Take workloads."""
        self._submitted_at = time.monotonic()
        for item in items:
            workload = item.workload
            if workload.attempt_id in self._reporter.items:
                log.error("attempt_submitted_twice", extra={"attempt": workload.attempt_id})
                continue
            self._reporter.items[workload.attempt_id] = item
            if self._stopping:
                self._reporter.finish_stopped(item, StopReason.SHUTDOWN)
            else:
                self._queue_of(item).add(item)

    def _queue_of(self, item: Item) -> Dispatcher | Lanes:
        return self._lanes if item.lane else self._dispatcher

    def may_share(self, attempt_id: str) -> bool:
        """Whether nothing speaks against a process with others. Callable from any thread."""
        return self._lanes.welcomes(attempt_id)

    def cancel(self, attempt_ids: Sequence[str]) -> None:
        """Stop attempts."""
        for attempt_id in attempt_ids:
            if (item := self._reporter.items.get(attempt_id)) is not None:
                self._stop_item(item, StopReason.CANCEL, self._context.grace)

    def drain(self) -> None:
        """Take back what runners have not begun; with all that waits it is given back at the end of this round."""
        self._draining = True
        for handle in self._pool:
            self._dispatcher.add_back(self._dispatcher.withdraw(handle))

    def shutdown(self, grace: float) -> None:
        """Stop everything; the loop ends when the last process is gone."""
        self._stopping = True
        deadline = time.monotonic() + grace
        for item in list(self._reporter.items.values()):
            self._stop_item(item, StopReason.SHUTDOWN, grace)
        self.loop.call_at(deadline, self._kill_all)
        self.loop.call_at(deadline + _KILL_MAX, self._give_up)

    # Hand out

    def _after_round(self) -> None:
        if self._stopping:
            for item in (*self._dispatcher.take_all(), *self._lanes.take_all()):
                self._reporter.finish_stopped(item, StopReason.SHUTDOWN)
            self._lanes.flush()
            if not self._reporter.items:
                self._end()
            return
        if self._draining:
            for item in (*self._dispatcher.take_all(), *self._lanes.take_all()):
                self._reporter.finish(item, *returned())
        for item in (*self._dispatcher.run(), *self._lanes.run()):
            self._reporter.finish(item, *lost("this scheduler's lease was over before the attempt could start"))
        self._dispatcher.flush(self._wait_writable)
        self._lanes.flush()
        if not self._release_planned and any(len(handle.items) > 1 for handle in self._pool):
            self._release_planned = True
            self.loop.call_at(time.monotonic() + STUCK, self._release_stuck)
        self.capacity = self._dispatcher.capacity()

    def _release_stuck(self) -> None:
        self._release_planned = False
        self._dispatcher.release_stuck()

    def _wait_writable(self, handle: Handle) -> None:
        self.loop.watch(handle.sock, lambda: self._on_ready(handle), write=True)

    # Messages of runners

    def _on_ready(self, handle: Handle) -> None:
        if handle.flush():
            self.loop.watch(handle.sock, lambda: self._on_readable(handle))
        self._on_readable(handle)

    def _on_readable(self, handle: Handle) -> None:
        self._take_messages(handle)
        if handle.hung_up or handle.garbled:
            # Dead, dying, or it closed its socket; in any case it can no longer be talked to.
            self.loop.unwatch(handle.sock)
            self._pool.retire(handle)
            self.loop.call_at(time.monotonic() + (0 if handle.garbled else 1.0), self._kill, handle)
        elif handle.choked:
            self.loop.unwatch(handle.sock)

    def _take_messages(self, handle: Handle) -> bool:
        return handle.take_messages(partial(self._on_message, handle))

    def _on_message(self, handle: Handle, kind: int, body: bytes) -> None:
        (seq,) = wire.SEQ_BODY.unpack_from(body)
        item = handle.item(seq)
        if item is None:
            return
        if kind == wire.STARTED:
            self._on_started(handle, item, body)
        elif kind == wire.FINISHED:
            self._on_finished(handle, item, body)
        elif kind == wire.LOG:
            handle.unacked += 1
            self._reporter.log_chunk(item, chunk_of(body), lambda: self.loop.call(self._on_stored, handle))
        elif kind == wire.EXPIRED:
            self._let_go(handle, item)
            self._dispatcher.add_back([item])  # if the lease was not renewed meanwhile, it ends there
        else:
            raise wire.WireError(f"kind {kind} from a runner")

    def _on_started(self, handle: Handle, item: Item, body: bytes) -> None:
        self._reporter.started(item, body)
        self._limit_time(item)
        self._nursery.watch(handle, item.workload.limits.memory)

    def _limit_time(self, item: Item) -> None:
        timeout = item.workload.limits.timeout
        if timeout is not None:
            self._deadlines.add(item.started_mono + timeout, item.workload.attempt_id, self._reporter.items)
            self._plan_deadline()

    def _on_finished(self, handle: Handle, item: Item, body: bytes) -> None:
        _, _, retire, started, finished = wire.FINISHED_BODY.unpack_from(body)
        if self._prefetch is not None:
            self._prefetch.observe(finished - started)
        self._let_go(handle, item)
        self._nursery.unwatch(handle)
        self._reporter.finished_by_runner(item, body)
        if item.stop is not None:
            self._retire(handle, patience=0)
        elif retire:
            self._retire(handle, patience=_RETIRE_MAX)

    def _let_go(self, handle: Handle, item: Item) -> None:
        handle.items.remove(item)
        item.handle = None
        if not handle.items:
            self._pool.release(handle)

    def _on_stored(self, handle: Handle) -> None:
        was_choked = handle.choked
        handle.unacked -= 1
        if was_choked and not handle.choked and not handle.hung_up and self._pool.by_id(handle.id) is handle:
            self._wait_writable(handle)  # reads, and writes if something is left to write

    # Stop

    def _plan_deadline(self) -> None:
        first = self._deadlines.first
        if first is not None and (self._deadline_planned is None or first < self._deadline_planned):
            self._deadline_planned = first
            self.loop.call_at(first, self._check_deadlines, first)

    def _check_deadlines(self, planned: float) -> None:
        if planned != self._deadline_planned:
            return  # an earlier one was planned after this
        self._deadline_planned = None
        for attempt_id in self._deadlines.pop_due(time.monotonic()):
            item = self._reporter.items.get(attempt_id)
            if item is not None and item.handle is not None:
                self._stop_item(item, StopReason.TIMEOUT, self._context.grace)
        self._plan_deadline()

    def _stop_item(self, item: Item, reason: StopReason, grace: float) -> None:
        if item.lane:
            self._lanes.stop_item(item, reason, grace)
            return
        if item.handle is not None:
            self._dispatcher.add_back(self._dispatcher.withdraw(item.handle))
        handle = item.handle
        if handle is None:
            self._dispatcher.remove(item)
            self._reporter.finish_stopped(item, reason)
            return
        if handle.items[-1] is not item or item.stop is not None:
            return  # its end is on the way already
        item.stop = reason
        self._pool.retire(handle)
        if grace > 0:
            self._nursery.signal(handle, signal.SIGTERM)
            self.loop.call_at(time.monotonic() + grace, self._kill, handle)
        else:
            self._kill(handle)

    def _retire(self, handle: Handle, patience: float) -> None:
        self._pool.retire(handle)
        self._dispatcher.add_back(self._dispatcher.withdraw(handle))
        if patience:
            self.loop.call_at(time.monotonic() + patience, self._kill, handle)
        else:
            self._kill(handle)

    def _kill(self, handle: Handle) -> None:
        self._nursery.signal(handle, signal.SIGKILL)

    def _kill_all(self) -> None:
        for handle in (*self._pool, *self._lanes):
            self._kill(handle)

    def _give_up(self) -> None:
        for item in list(self._reporter.items.values()):
            self._reporter.finish_stopped(item, StopReason.SHUTDOWN)

    # Processes

    def _fork(self, handle: Handle) -> None:
        self._nursery.fork(handle)
        self.loop.watch(handle.sock, lambda: self._on_readable(handle))

    def _discard(self, handle: Handle) -> None:
        self._pool.forget(handle)
        self._nursery.discard(handle)

    def _trim(self) -> None:
        """End what has been idle for long, the zygote too if it is not to be warm."""
        long_ago = time.monotonic() - _IDLE_MAX
        self._pool.trim(long_ago)
        self._lanes.trim(long_ago)
        if self._policy.lazy and not self._reporter.items and self._submitted_at < long_ago:
            for handle in self._pool:
                self._discard(handle)
            self._nursery.rest()
        self.loop.call_at(time.monotonic() + _IDLE_MAX / 5, self._trim)

    def _on_exit(self, handle: Handle, report: Exited) -> None:
        if isinstance(handle, LaneHandle):
            self._lanes.on_exit(handle, report)
            return

        def end(item: Item) -> None:
            if item.started_at is not None:
                self._reporter.salvage_log(item, report.area, report.rest)
            self._reporter.finish(item, *self._verdict(handle, item, report))

        self._bury(handle, end)
        if not self._stopping and handle.key is not None:  # one that died unused would die again and again
            self._pool.keep_spare()

    def _bury(self, handle: Handle, end: Callable[[Item], None]) -> None:
        """The process is gone: end what it ran, queue again what it had not begun."""
        while self._take_messages(handle):
            pass
        self._pool.forget(handle)
        self._dispatcher.add_back(self._dispatcher.withdraw(handle))
        for item in list(handle.items):
            end(item)
        self._nursery.discard(handle)

    def _verdict(self, handle: Handle, item: Item, report: Exited) -> tuple[Outcome, ErrorInfo]:
        if item.stop is not None:
            return stopped(item.stop, item.workload.limits.timeout)
        if handle.garbled:
            return Outcome.FAILED, ErrorInfo(type="Protocol", message="the node wrote into the runner's own channel")
        if item.started_at is None:
            said = report.rest["stderr"].decode("utf-8", "replace").strip().rpartition("\n")[2]
            return lost(f"the runner process ended before the attempt began{': ' if said else ''}{said}")
        return died(report.end)

    def _on_zygote_lost(self) -> None:
        """Its runners die with it; their attempts are lost, and another zygote takes over."""
        for handle in self._pool:
            self._nursery.kill_orphan(handle)
            self._bury(handle, self._end_orphan)
        for lane in self._lanes:
            self._nursery.kill_orphan(lane)
            self._lanes.bury(lane, _ORPHANED)
        if self._nursery.hopeless:
            for item in (*self._dispatcher.take_all(), *self._lanes.take_all()):
                self._reporter.finish(item, Outcome.REFUSED, ErrorInfo(type="Refused", message=_NO_PROCESSES))

    def _end_orphan(self, item: Item) -> None:
        if item.stop is not None:
            self._reporter.finish_stopped(item, item.stop)
        else:
            self._reporter.finish(item, *lost(_ORPHANED))

    def _end(self) -> None:
        self._nursery.close()
        for handle in (*self._pool, *self._lanes):
            self._nursery.discard(handle)
        self.loop.stop()

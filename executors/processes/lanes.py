"""The I/O lanes of an executor: few processes with many attempts each (`lane.py` is such a process).

A lane serves one workspace. Lanes are filled evenly, and another one is opened when all have LANE_FEW attempts. When one
dies, its attempts are lost, a bounded number, and the next workload opens another.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from agentflow.runner import wire
from agentflow.workload import ErrorInfo, Outcome
from executors.processes.handle import LaneHandle
from executors.processes.io_loop import IoLoop
from executors.processes.item import Item
from executors.processes.nursery import Nursery
from executors.processes.outcomes import StopReason, lost, stopped
from executors.processes.reporter import Reporter, chunk_of
from executors.processes.watchdog import GIVE_UP
from executors.processes.zygote_link import Exited

log: Final = logging.getLogger(__name__)

LANE_MAX: Final = 256  # attempts of one lane: what is lost together, and what one core serves well
LANE_FEW: Final = 32  # attempts of each lane before another one is opened
LOSSES_MAX: Final = 2  # lanes that a node run may die with before it gets a process of its own
REMEMBERED: Final = 10_000  # node runs that died with a lane


class Lanes:
    """Belongs to the I/O thread."""

    def __init__(
        self,
        concurrency: int,
        *,
        loop: IoLoop,
        nursery: Nursery,
        reporter: Reporter,
        on_started: Callable[[Item], None],
        lease: Callable[[], float],
        number: Callable[[], int],
    ) -> None:
        """Make none yet.

        Args:
            concurrency: Attempts at once, 0 for no lanes.
            loop: The thread that everything happens in.
            nursery: Makes the processes.
            reporter: Takes what attempts say.
            on_started: Hears of each start, for its timeout.
            lease: `time.monotonic()` until which attempts may start.
            number: Gives each process a number.
        """
        self._most = -(-concurrency // LANE_MAX)
        self._loop = loop
        self._nursery = nursery
        self._reporter = reporter
        self._on_started = on_started
        self._lease = lease
        self._number = number
        self._waiting: deque[Item] = deque()
        self._lanes: dict[int, LaneHandle] = {}
        self._unsent: set[LaneHandle] = set()
        self._losses: OrderedDict[str, int] = OrderedDict()  # lanes that a node run has died with

    def welcomes(self, attempt_id: str) -> bool:
        """Whether a workload may share a process: not if its node run died with lanes before, too often for chance.

        Callable from any thread.
        """
        return self._losses.get(_node_run(attempt_id), 0) < LOSSES_MAX

    def __iter__(self) -> Iterator[LaneHandle]:
        """Every lane that is not reported dead."""
        return iter(list(self._lanes.values()))

    # Hand out

    def add(self, item: Item) -> None:
        """Queue a workload."""
        self._waiting.append(item)

    def take_all(self) -> list[Item]:
        """Everything that waits; nothing does afterwards."""
        items = list(self._waiting)
        self._waiting.clear()
        return items

    def run(self) -> list[Item]:
        """Hand out what can be handed out; returns the workloads that must not start because the lease is over."""
        if not self._waiting:
            return []
        lease = self._lease()
        if lease <= time.monotonic():
            return self.take_all()
        kept: deque[Item] = deque()
        full: set[str] = set()
        for item in self._waiting:
            workspace = item.workload.workspace
            lane = None if workspace in full else self._lane_for(item)
            if lane is None:
                full.add(workspace)
                kept.append(item)
                continue
            lane.hand_over(item, lease)
            self._unsent.add(lane)
        self._waiting = kept
        return []

    def flush(self) -> None:
        """Send what is to be sent."""
        for lane in self._unsent:
            if not lane.flush():
                self._loop.watch(lane.sock, partial(self._on_ready, lane), write=True)
        self._unsent.clear()

    def _lane_for(self, item: Item) -> LaneHandle | None:
        """The least loaded lane of the workspace, a new one, or none while all are full."""
        open_now = [lane for lane in self._lanes.values() if not lane.retiring]
        mine = [lane for lane in open_now if lane.key == item.key and len(lane.items) < LANE_MAX]
        best = min(mine, key=lambda lane: len(lane.items), default=None)
        if best is not None and (len(best.items) < LANE_FEW or len(open_now) >= self._most):
            return best
        if len(open_now) >= self._most and not self._end_idle(open_now):
            return best
        return self._open(item)

    def _open(self, item: Item) -> LaneHandle:
        lane = LaneHandle(self._number())
        lane.key = item.key
        self._lanes[lane.id] = lane
        self._nursery.fork(lane)
        self._loop.watch(lane.sock, lambda: self._on_readable(lane))
        return lane

    def _end_idle(self, lanes: list[LaneHandle]) -> bool:
        """Let the lane end that has been idle longest, whomever it served."""
        idle = [lane for lane in lanes if not lane.items]
        if idle:
            self.discard(min(idle, key=lambda lane: lane.idle_since))
        return bool(idle)

    # Messages

    def _on_ready(self, lane: LaneHandle) -> None:
        if lane.flush():
            self._loop.watch(lane.sock, lambda: self._on_readable(lane))
        self._on_readable(lane)

    def _on_readable(self, lane: LaneHandle) -> None:
        self._take_messages(lane)
        if lane.hung_up or lane.garbled:
            self._loop.unwatch(lane.sock)
            lane.retiring = True
            self._loop.call_at(time.monotonic() + (0 if lane.garbled else 1.0), self.kill, lane)

    def _take_messages(self, lane: LaneHandle) -> bool:
        return lane.take_messages(partial(self._on_message, lane))

    def _on_message(self, lane: LaneHandle, kind: int, body: bytes) -> None:
        (seq,) = wire.SEQ_BODY.unpack_from(body)
        item = lane.item(seq)
        if item is None:
            return
        if kind == wire.STARTED:
            self._reporter.started(item, body)
            self._on_started(item)
        elif kind == wire.LOG:
            self._reporter.log_chunk(item, chunk_of(body), lambda: self._loop.call(self._on_stored, lane, seq))
        elif kind == wire.FINISHED:
            self._let_go(lane, item)
            self._reporter.finished_by_runner(item, body)
            if wire.FINISHED_BODY.unpack_from(body)[2]:
                lane.retiring = True
            if lane.retiring and not lane.items:
                self.discard(lane)
        elif kind == wire.EXPIRED:
            self._let_go(lane, item)
            self._waiting.appendleft(item)  # if the lease was not renewed meanwhile, it ends there
        else:
            raise wire.WireError(f"kind {kind} from a lane")

    def _let_go(self, lane: LaneHandle, item: Item) -> None:
        lane.items.remove(item)
        item.handle = None
        lane.idle_since = time.monotonic()

    def _on_stored(self, lane: LaneHandle, seq: int) -> None:
        if lane.item(seq) is not None and lane.id in self._lanes:
            lane.chunk_stored(seq)
            self._unsent.add(lane)

    # Stop

    def stop_item(self, item: Item, reason: StopReason, grace: float) -> None:
        """End one attempt; if the lane has not ended it after the grace, the lane is killed."""
        lane = item.handle
        if not isinstance(lane, LaneHandle):
            self._waiting.remove(item)
            self._reporter.finish_stopped(item, reason)
            return
        if item.stop is not None:
            return
        item.stop = reason
        lane.stop_item(item)
        self._unsent.add(lane)
        self._loop.call_at(time.monotonic() + grace, self._kill_if_deaf, lane, item)

    def _kill_if_deaf(self, lane: LaneHandle, item: Item) -> None:
        if item.handle is lane:
            log.warning("lane_killed", extra={"attempts": len(lane.items), "attempt": item.workload.attempt_id})
            self.kill(lane)

    def kill(self, lane: LaneHandle) -> None:
        """SIGKILL; its end will be reported."""
        self._nursery.signal(lane, signal.SIGKILL)

    # Ends

    def discard(self, lane: LaneHandle) -> None:
        """Let go of a lane without attempts: it ends by that."""
        self._lanes.pop(lane.id, None)
        self._unsent.discard(lane)
        self._nursery.discard(lane)

    def trim(self, older_than: float) -> None:
        """Let lanes end that have been idle since before `time.monotonic()` == older_than."""
        for lane in self:
            if not lane.items and lane.idle_since < older_than:
                self.discard(lane)

    def on_exit(self, lane: LaneHandle, report: Exited) -> None:
        """A lane is gone."""
        said = _last_words(report.rest["stderr"].decode("utf-8", "replace"))
        self.bury(lane, f"the I/O lane that it shared with others ended{': ' if said else ''}{said}")

    def bury(self, lane: LaneHandle, why: str) -> None:
        """The process is gone: end what it ran."""
        while self._take_messages(lane):
            pass
        if lane.items:
            log.warning("lane_lost", extra={"attempts": len(lane.items), "reason": why})
        for item in list(lane.items):
            lane.items.remove(item)
            item.handle = None
            self._remember(item)
            self._reporter.finish(item, *_verdict(item, why))
        if lane.id in self._lanes:
            self.discard(lane)

    def _remember(self, item: Item) -> None:
        """One of those that die together may be the cause; each time it meets others, until it is on its own."""
        node_run = _node_run(item.workload.attempt_id)
        self._losses[node_run] = self._losses.get(node_run, 0) + 1
        self._losses.move_to_end(node_run)
        if len(self._losses) > REMEMBERED:
            self._losses.popitem(last=False)


def _last_words(stderr: str) -> str:
    """Why the process says that it ended."""
    if stderr.startswith("Timeout ("):  # the second clock of watchdog.py, with all stacks
        return f"a step blocked it for {GIVE_UP:g} s and could not be ended"
    return stderr.strip().rpartition("\n")[2]


def _node_run(attempt_id: str) -> str:
    return attempt_id.rpartition("/")[0]


def _verdict(item: Item, why: str) -> tuple[Outcome, ErrorInfo]:
    """Nobody knows whose fault it was: all are lost, but those that were to end anyway."""
    return stopped(item.stop, item.workload.limits.timeout) if item.stop is not None else lost(why)

"""Hands waiting workloads to runners: at once to free ones, ahead of time to those whose attempts are short."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from executors.processes.handle import Handle
from executors.processes.item import Item, Key
from executors.processes.pool import Pool
from executors.processes.prefetch import Prefetch

STUCK: Final = 0.005  # seconds after which nothing stays queued behind a running attempt


class Dispatcher:
    """The queues; belongs to the I/O thread."""

    def __init__(self, pool: Pool, prefetch: Prefetch | None, *, size: int, lease: Callable[[], float]) -> None:
        """`prefetch`: how far to look ahead; None: not at all."""
        self._pool = pool
        self._prefetch = prefetch
        self._size = size
        self._lease = lease
        self._waiting: dict[Key, deque[Item]] = {}
        self._unsent: set[Handle] = set()

    @property
    def waiting(self) -> bool:
        """Whether workloads wait for a process."""
        return bool(self._waiting)

    def add(self, item: Item) -> None:
        """Queue a workload."""
        self._waiting.setdefault(item.key, deque()).append(item)

    def add_back(self, items: Iterable[Item]) -> None:
        """Queue again what a runner did not begin; it keeps its turn."""
        for item in reversed(list(items)):
            self._waiting.setdefault(item.key, deque()).appendleft(item)

    def remove(self, item: Item) -> None:
        """Forget a waiting workload."""
        queue = self._waiting.get(item.key)
        if queue is not None and item in queue:
            queue.remove(item)

    def take_all(self) -> list[Item]:
        """Everything that waits; the queues are empty afterwards."""
        items = [item for queue in self._waiting.values() for item in queue]
        self._waiting.clear()
        return items

    def withdraw(self, handle: Handle) -> list[Item]:
        """Take back what a runner has not begun."""
        items = handle.take_back()
        if items:
            self._unsent.add(handle)
            if not handle.items:
                self._pool.release(handle)
        return items

    def run(self) -> list[Item]:
        """Hand out what can be handed out; returns the workloads that must not start because the lease is over."""
        if not self._waiting:
            return []
        lease = self._lease()
        if lease <= time.monotonic():
            return self.take_all()
        for key in list(self._waiting):
            queue = self._waiting[key]
            self._fill_free(key, queue, lease)
            self._fill_ahead(key, queue, lease)
            if not queue:
                del self._waiting[key]
        return []

    def flush(self, wait_writable: Callable[[Handle], None]) -> None:
        """Send what has been handed out."""
        for handle in self._unsent:
            if not handle.flush():
                wait_writable(handle)
        self._unsent.clear()

    def release_stuck(self) -> bool:
        """Take back what waits behind a long attempt; whether anything is still queued inside runners."""
        limit = time.monotonic() - STUCK
        ahead = False
        for handle in self._pool:
            if len(handle.items) < 2:
                continue
            if handle.busy_since is not None and handle.busy_since < limit:
                self.add_back(self.withdraw(handle))
            else:
                ahead = True
        return ahead

    def capacity(self) -> int:
        """How many workloads may be out at once now: the running ones and the queue ahead of them."""
        queue = self._prefetch.queue if self._prefetch is not None else 0
        if not queue:
            return self._size
        limit = time.monotonic() - STUCK
        stuck = sum(1 for handle in self._pool if handle.busy_since is not None and handle.busy_since < limit)
        return self._size + queue * max(0, self._size - stuck)

    def _fill_free(self, key: Key, queue: deque[Item], lease: float) -> None:
        while queue:
            handle = self._pool.acquire(key)
            if handle is None:
                return
            self._hand_over(handle, queue.popleft(), lease)

    def _fill_ahead(self, key: Key, queue: deque[Item], lease: float) -> None:
        depth = self._prefetch.pipeline if self._prefetch is not None else 1
        if not queue or depth < 2:
            return
        limit = time.monotonic() - STUCK
        handles = [
            handle
            for handle in self._pool.serving(key)
            if len(handle.items) < depth
            and not handle.choked
            and (handle.busy_since is None or handle.busy_since > limit)
            and all(item.stop is None for item in handle.items)
        ]
        handles.sort(key=lambda handle: len(handle.items))
        for position, handle in enumerate(handles):
            share = -(-len(queue) // (len(handles) - position))
            for _ in range(min(share, depth - len(handle.items))):
                self._hand_over(handle, queue.popleft(), lease)

    def _hand_over(self, handle: Handle, item: Item, lease: float) -> None:
        handle.hand_over(item, lease)
        self._unsent.add(handle)

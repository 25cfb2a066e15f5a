"""Which runner processes exist and whom they serve. Each serves one (workspace, bundle); one spare serves the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from executors.processes.handle import Handle
from executors.processes.item import Key


class Pool:
    """At most `size` processes at work, grown on demand, and the spare."""

    def __init__(self, size: int, *, fork: Callable[[Handle], None], discard: Callable[[Handle], None]) -> None:
        """`fork` makes the process of a new handle, `discard` lets an idle one end."""
        self._size = size
        self._fork = fork
        self._discard = discard
        self._handles: dict[int, Handle] = {}
        self._idle: dict[Key, list[Handle]] = {}
        self._serving: dict[Key, dict[int, Handle]] = {}
        self._active = 0  # bound to a key and not retiring
        self._spare: Handle | None = None
        self._number = 0

    def __iter__(self) -> Iterator[Handle]:
        """Every process that is not reported dead."""
        return iter(list(self._handles.values()))

    def by_id(self, number: int) -> Handle | None:
        """The process with this number, if it lives."""
        return self._handles.get(number)

    def serving(self, key: Key) -> list[Handle]:
        """Processes that may take more work for this key."""
        return list(self._serving.get(key, {}).values())

    def acquire(self, key: Key) -> Handle | None:
        """An idle process for this key: a waiting one, the spare, a new one; None when all are busy."""
        idle = self._idle.get(key)
        if idle:
            return idle.pop()
        if self._active >= self._size and not self._evict():
            return None
        handle = self._spare or self._make()
        self._spare = None
        handle.key = key
        self._serving.setdefault(key, {})[handle.id] = handle
        self._active += 1
        self.keep_spare()
        return handle

    def release(self, handle: Handle) -> None:
        """The process has nothing to do."""
        if handle.key is not None and not handle.retiring:
            handle.idle_since = time.monotonic()
            self._idle.setdefault(handle.key, []).append(handle)

    def retire(self, handle: Handle) -> None:
        """The process takes no more work; another may take its place."""
        if handle.retiring:
            return
        handle.retiring = True
        if handle is self._spare:
            self._spare = None
        if handle.key is not None:
            self._active -= 1
            self._serving[handle.key].pop(handle.id, None)
            idle = self._idle.get(handle.key, [])
            if handle in idle:
                idle.remove(handle)

    def forget(self, handle: Handle) -> None:
        """The process is gone."""
        self.retire(handle)
        self._handles.pop(handle.id, None)

    def keep_spare(self) -> None:
        """Have one process ready for whoever comes next, or in the place of one that retires."""
        if self._spare is None:
            self._spare = self._make()

    def trim(self, older_than: float) -> None:
        """Let processes end that have been idle since before `time.monotonic()` == older_than."""
        for idle in list(self._idle.values()):
            for handle in [handle for handle in idle if handle.idle_since < older_than]:
                self._end_idle(handle)

    def number(self) -> int:
        """A number for another process."""
        self._number += 1
        return self._number

    def _make(self) -> Handle:
        handle = Handle(self.number())
        self._handles[handle.id] = handle
        self._fork(handle)
        return handle

    def _evict(self) -> bool:
        """End the process that has been idle longest, whomever it served."""
        idle = [handle for handles in self._idle.values() for handle in handles]
        if not idle:
            return False
        self._end_idle(min(idle, key=lambda handle: handle.idle_since))
        return True

    def _end_idle(self, handle: Handle) -> None:
        self.retire(handle)
        self._discard(handle)

"""One thread that waits for sockets, timers and calls from other threads."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

log: Final = logging.getLogger(__name__)

Call = Callable[..., None]


class IoLoop:
    """Calls back in its own thread; `call` is the only method for other threads."""

    def __init__(self, after_round: Callable[[], None], name: str) -> None:
        """`after_round` runs after each batch of callbacks; `name` is the thread's."""
        self._after_round = after_round
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Call, tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Call, tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._woken = False
        self._running = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wakes)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; whether it ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def call(self, function: Call, *args: Any) -> None:
        """Run a function in the thread, soon. Callable from any thread."""
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # full: it will wake anyway; closed: it has ended
                os.write(self._wake_write, b"w")

    def call_at(self, when: float, function: Call, *args: Any) -> None:
        """Run a function at `time.monotonic()` == when. There is no way to cancel it: it checks what still holds."""
        heapq.heappush(self._timers, (when, next(self._order), function, args))

    def watch(self, sock: socket.socket, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call back while the socket can be read (and, with `write`, written)."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        try:
            self._selector.modify(sock, events, callback)
        except KeyError:
            self._selector.register(sock, events, callback)

    def unwatch(self, sock: socket.socket) -> None:
        """Forget the socket; before it is closed."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def stop(self) -> None:
        """End the thread after this round."""
        self._running = False

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select(self._patience()):
                self._guard(key.data)
            while self._calls:
                function, args = self._calls.popleft()
                self._guard(function, *args)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                _, _, function, args = heapq.heappop(self._timers)
                self._guard(function, *args)
            self._guard(self._after_round)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _patience(self) -> float | None:
        if self._calls:
            return 0.0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        # After the read, which might take away the byte of a call that saw False; and before the calls are looked at.
        self._woken = False

    def _guard(self, function: Call, *args: Any) -> None:
        """One bad event must not end the loop."""
        try:
            function(*args)
        except Exception:
            log.exception("executor_loop_error", extra={"call": getattr(function, "__name__", "")})

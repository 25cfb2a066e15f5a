"""One thread that reads and sends: whatever it sends about a run is in order, because nobody else does."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import is_disconnect
from webserver.live.feed import Feed

log = logging.getLogger(__name__)

REFRESH = 5.0  #: Seconds between looks at everything that is watched: the safety net under notifications.
BACKOFF_FIRST, BACKOFF_MAX = 0.2, 5.0  # seconds to wait when the database fails


class Pump:
    """Calls the feeds; others reach them through `post`."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._mailbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was posted before is done first."""
        self._mailbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def post(self, message: Callable[[], None]) -> None:
        """Have the thread call this, in the order of posting."""
        self._mailbox.put(message)

    def look(self) -> None:
        """Have everything looked at that is watched."""
        self.post(self._look)

    def _look(self) -> None:
        for feed in self._feeds:
            feed.look()

    def _run(self) -> None:
        backoff, refresh_at, wait = BACKOFF_FIRST, time.monotonic() + REFRESH, 0.0
        while True:
            try:
                if not self._take(wait):
                    return
                now = time.monotonic()
                if now >= refresh_at:
                    refresh_at = now + REFRESH
                    self._look()
                waits = [feed.work(now) for feed in self._feeds]
                wait = min([refresh_at - now, *(each for each in waits if each is not None)])
                backoff = BACKOFF_FIRST
            except Exception as error:
                away = isinstance(error, DBAPIError) and is_disconnect(error)
                log.warning("live_read_failed", extra={"again_in": backoff}, exc_info=None if away else error)
                wait, backoff = backoff, min(backoff * 2, BACKOFF_MAX)
                refresh_at = 0.0

    def _take(self, wait: float) -> bool:
        """Do what was posted; waits for it at most so long. False when the end is asked for."""
        try:
            message = self._mailbox.get(timeout=max(wait, 0.0))
            while message is not None:
                message()
                message = self._mailbox.get_nowait()
        except queue.Empty:
            return True
        return False

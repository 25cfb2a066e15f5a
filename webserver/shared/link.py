"""The way to Redis: whoever goes it must do without Redis, too.

One failure, or several slow answers in a row, and nobody is sent there any more until a thread has seen Redis write
again, and fast: of all requests only those that are under way when it stops answering wait for it, TIMEOUT at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis import BlockingConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TookTooLong
from redis.retry import Retry

from webserver.offload import gevent_patched
from webserver.ops import metrics

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = 0.2  #: Seconds that anybody waits for Redis, all in all; without gevent, for each step of the way there.
SLOW = 0.05  #: Seconds; an answer that takes longer is worse than none,
SLOW_IN_A_ROW = 5  #: but one alone says little: the process itself may have been busy.
AGAIN_FIRST, AGAIN_MAX = 0.05, 2.0  # seconds between tries while it is away
_CONNECTIONS = 32
_TRIED = "agentflow:tried"


class RedisAwayError(Exception):
    """Redis does not answer, refuses or is slow: do without it."""


class RedisLink:
    """The connections of one process."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`url`: redis://, rediss:// or unix://. Connects when it is first used."""
        self._clock = clock
        self._slow = 0  # answers in a row
        self.pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=0,
            # A connection that was closed while nobody used it is no sign of anything; a silent one is.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
        )
        self._redis = Redis(connection_pool=self.pool)
        self._lock = threading.Lock()
        self._away = False
        self._closing = threading.Event()
        metrics.REDIS_UP.labels("shared").set(1)

    @property
    def away(self) -> bool:
        """Whether it did not answer when it was asked last."""
        return self._away

    def ask(self, work: Callable[[Redis], T]) -> T:
        """What `work` returns.

        Raises:
            RedisAwayError: Redis is away, which is known already or found out now.
        """
        if self._away:
            raise RedisAwayError
        began = self._clock()
        try:
            with _at_most(TIMEOUT):
                answer = work(self._redis)
        except RedisError as error:
            self._leave(f"{type(error).__name__}: {error}")
            raise RedisAwayError from error
        self._slow = self._slow + 1 if self._clock() - began > SLOW else 0
        if self._slow >= SLOW_IN_A_ROW:
            self._leave(f"{self._slow} answers in a row took more than {1000 * SLOW:.0f} ms")
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        self._closing.set()
        self.pool.disconnect()

    def _leave(self, why: str) -> None:
        with self._lock:
            if self._away or self._closing.is_set():
                return
            self._away, self._slow = True, 0
        metrics.REDIS_UP.labels("shared").set(0)
        log.warning("redis_away", extra={"error": why})
        threading.Thread(target=self._come_back, name="redis-again", daemon=True).start()

    def _come_back(self) -> None:
        pause = AGAIN_FIRST
        while not self._closing.wait(pause):
            if self._is_fit():
                with self._lock:
                    self._away = False
                metrics.REDIS_UP.labels("shared").set(1)
                log.info("redis_back")
                return
            pause = min(2 * pause, AGAIN_MAX)

    def _is_fit(self) -> bool:
        """Whether it takes something, at once: one that only reads, is full or slow is of no use."""
        began = self._clock()
        try:
            with _at_most(TIMEOUT):
                self._redis.set(_TRIED, 1, px=1000)
        except RedisError:
            return False
        return self._clock() - began <= SLOW


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Sockets have their own timeouts, for each step; the name's resolution has none, and steps add up."""
    if not gevent_patched():
        yield
        return
    from gevent import Timeout

    with Timeout(seconds) as timer:
        try:
            yield
        except Timeout as expired:
            if expired is not timer:
                raise
            raise TookTooLong(f"no whole answer in {1000 * seconds:.0f} ms") from None

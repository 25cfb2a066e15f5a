"""The way to Redis: whoever goes it must do without Redis, too.

One failure, and nobody is sent there any more until a thread has seen Redis write again: of all requests only those
that are under way when it stops answering wait for it, TIMEOUT at most.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from redis import BlockingConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.retry import Retry

from webserver.ops import metrics

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = 0.2  #: Seconds that anybody waits for Redis.
AGAIN_FIRST, AGAIN_MAX = 0.05, 2.0  # seconds between tries while it is away
_CONNECTIONS = 32
_TRIED = "agentflow:tried"


class RedisAwayError(Exception):
    """Redis does not answer, or refuses: do without it."""


class RedisLink:
    """The connections of one process."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        """`url`: redis://, rediss:// or unix://. Connects when it is first used."""
        self.pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=0,
            # A connection that was closed while nobody used it is no sign of anything; a silent one is.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
        )
        self._redis = Redis(connection_pool=self.pool)
        self._lock = threading.Lock()
        self._away = False
        self._closing = threading.Event()
        metrics.REDIS_UP.set(1)

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
        try:
            return work(self._redis)
        except RedisError as error:
            self._leave(error)
            raise RedisAwayError from error

    def close(self) -> None:
        """Let go of the connections."""
        self._closing.set()
        self.pool.disconnect()

    def _leave(self, error: RedisError) -> None:
        with self._lock:
            if self._away or self._closing.is_set():
                return
            self._away = True
        metrics.REDIS_UP.set(0)
        log.warning("redis_away", extra={"error": f"{type(error).__name__}: {error}"})
        threading.Thread(target=self._come_back, name="redis-again", daemon=True).start()

    def _come_back(self) -> None:
        pause = AGAIN_FIRST
        while not self._closing.wait(pause):
            try:
                self._redis.set(_TRIED, 1, px=1000)  # one that only reads, or is full, is of no use
            except RedisError:
                pause = min(2 * pause, AGAIN_MAX)
                continue
            with self._lock:
                self._away = False
            metrics.REDIS_UP.set(1)
            log.info("redis_back")
            return

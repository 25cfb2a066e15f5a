"""What the system leans on: whether it answers, how fast, and since when that is so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from sqlalchemy import Engine, text

from agentflow.clock import Clock, iso, utc_now
from agentflow.objects.store import open_store
from agentflow.settings import Settings
from webserver.offload import offload
from webserver.shared.link import RedisAwayError, RedisLink

log = logging.getLogger(__name__)

CACHED = 2.0  #: Seconds that an answer is kept: who looks often must not become a load.
TIMEOUT = 3.0  # seconds

State = Literal["up", "down", "off"]  #: `off`: not configured.
#: Raises when the thing does not answer; None: it is not configured.
Probe = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Seen:
    """How a dependency was when it was looked at."""

    state: State
    latency: float | None  #: Seconds.
    detail: str | None  #: Why it is down.
    since: datetime  #: When this process first saw it in this state.


class Dependencies:
    """Looks at each dependency and remembers since when it has been as it is."""

    def __init__(self, probes: Mapping[str, Probe | None], *, now: Clock = utc_now) -> None:
        self._probes = probes
        self._now = now
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] = {}
        self._looked_at = float("-inf")

    def look(self) -> list[dict[str, Any]]:
        """The state of each, at most CACHED seconds old."""
        with self._lock:
            if time.monotonic() - self._looked_at > CACHED:
                self._seen = {name: self._one(name, probe) for name, probe in self._probes.items()}
                self._looked_at = time.monotonic()
            return [
                {
                    "name": name,
                    "state": seen.state,
                    "latency_ms": None if seen.latency is None else round(1000 * seen.latency, 3),
                    "since": iso(seen.since),
                    "detail": seen.detail,
                }
                for name, seen in self._seen.items()
            ]

    def _one(self, name: str, probe: Probe | None) -> Seen:
        state, latency, detail = _try(name, probe)
        before = self._seen.get(name)
        since = before.since if before is not None and before.state == state else self._now()
        return Seen(state, latency, detail, since)


def _try(name: str, probe: Probe | None) -> tuple[State, float | None, str | None]:
    if probe is None:
        return "off", None, None
    began = time.monotonic()
    try:
        probe()
    except Exception as error:
        log.warning("dependency_down", extra={"dependency": name}, exc_info=error)
        return "down", None, type(error).__name__
    return "up", time.monotonic() - began, None


def dependencies_of(settings: Settings, engine: Engine, redis: RedisLink | None) -> Dependencies:
    """Those of a web server. Mail is for a later release: nothing sends any yet."""
    return Dependencies(
        {
            "database": partial(_ask_database, engine),
            "object_store": lambda: offload(open_store(settings).probe),
            "redis": partial(_ask_redis, settings.redis_url, redis) if redis is not None else None,
            "mail": None,
        }
    )


def _ask_database(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _ask_redis(url: str, link: RedisLink) -> None:
    import redis

    with redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as client:
        client.ping()
    if link.away:  # it answers, but is of no use: full, slow, or it only reads
        raise RedisAwayError

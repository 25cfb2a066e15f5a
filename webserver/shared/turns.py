"""What several processes want to read at the same moment is read by one of them, for all (docs/live.md).

The database stays the truth: whoever has no answer in time, or does not believe it, reads for itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from redis import Redis

from agentflow.db.kept import SHARED_MAX
from webserver.ops import metrics
from webserver.shared.link import RedisAwayError, RedisLink

HELD = 0.15  #: Seconds that others leave a reading to the one whose turn it is; then it is the turn of whoever asks.
GIVEN = 5.0  #: Seconds that what was read is there for others.

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """A document that somebody wants."""

    turn: str  #: Names the reading; who wants another document under the same key has a turn of their own.
    fits: Callable[[Any], bool]  #: Whether what is there under the key is of use.


@dataclass(frozen=True, slots=True)
class Turn:
    """Who reads what."""

    found: dict[str, Document] = field(default_factory=dict)  #: Others have read these.
    elsewhere: frozenset[str] = frozenset()  #: Others are reading these: ask again in a moment. What is left is ours.


class Turns:
    """Of one process."""

    def __init__(self, link: RedisLink, prefix: Callable[[], str]) -> None:
        """`prefix`: of all keys of this database; asked for once: what is kept for seconds outlives no restore."""
        self._link = link
        self._find_prefix = prefix
        self._prefix: str | None = None

    def take(self, wanted: Mapping[str, Wish]) -> Turn:
        """Ask for documents by key; those neither found nor elsewhere are the caller's to read."""
        if not wanted or self._link.away:
            return Turn()
        prefix = self._known_prefix()
        keys = list(wanted)
        try:
            texts = self._link.ask(lambda redis: cast("list[bytes | None]", redis.mget([prefix + key for key in keys])))
            found = {
                key: document
                for key, text in zip(keys, texts, strict=True)
                if text is not None and wanted[key].fits(document := _read(text))
            }
            missing = [key for key in keys if key not in found]
            turns = [f"{prefix}turn:{wanted[key].turn}" for key in missing]
            ours = self._link.ask(lambda redis: _claim(redis, turns)) if turns else []
        except RedisAwayError:
            return Turn()
        metrics.LIVE_SHARED.labels("found").inc(len(found))
        metrics.LIVE_SHARED.labels("read").inc(sum(ours))
        return Turn(found, frozenset(key for key, mine in zip(missing, ours, strict=True) if not mine))

    def give(self, documents: Mapping[str, Document]) -> None:
        """What the caller has read, for those who wait for it."""
        if not documents or self._link.away:
            return
        prefix = self._known_prefix()
        texts = {key: json.dumps(document, separators=(",", ":")) for key, document in documents.items()}

        def store(redis: Redis) -> None:
            with redis.pipeline(transaction=False) as pipeline:
                for key, text in texts.items():
                    if len(text) <= SHARED_MAX:
                        pipeline.set(f"{prefix}{key}", text, px=int(1000 * GIVEN))
                pipeline.execute()

        with suppress(RedisAwayError):
            self._link.ask(store)

    def _known_prefix(self) -> str:
        if self._prefix is None:
            self._prefix = self._find_prefix()
        return self._prefix


def _claim(redis: Redis, turns: Sequence[str]) -> list[bool]:
    with redis.pipeline(transaction=False) as pipeline:
        for turn in turns:
            pipeline.set(turn, 1, nx=True, px=int(1000 * HELD))
        return [bool(mine) for mine in pipeline.execute()]


def _read(text: bytes) -> Any:
    """What JSON makes of it; None of what is none of ours."""
    with suppress(ValueError):
        return json.loads(text)
    return None

"""What was read from the database and never changes under its key: kept in memory, and shared between processes.

A key names a content (a version, a run at a position), so nothing has to be taken back: what changes gets another key.
Values are JSON, of one workspace each, and no secrets. Whoever reads one must not change it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

K = TypeVar("K", bound=tuple[object, ...])
V = TypeVar("V")

SHARED_MAX = 4 * 2**20  #: Bytes of a value that is shared.
SHARED_FOR = 3600.0  #: Seconds that a value is shared at most; who still needs it has it in memory.


class Shared(Protocol):
    """A memory that several processes have together. Never raises, and never waits long: it may know nothing."""

    def get(self, connection: Connection, keys: Sequence[str]) -> list[bytes | None]:
        """What is known, in the order of the keys."""

    def put(self, connection: Connection, values: Mapping[str, bytes], seconds: float) -> None:
        """Remember for so long."""


_shared: WeakKeyDictionary[Engine, Shared] = WeakKeyDictionary()


def share(engine: Engine, shared: Shared) -> None:
    """Have what is read through this engine shared."""
    _shared[engine] = shared


class Kept(Generic[K, V]):
    """Values of one kind, by engine, workspace and key; those that were not used for longest are given up first."""

    def __init__(
        self,
        name: str,
        *,
        most: int,
        weigh: Callable[[V], int],
        sized: bool = False,
        decode: Callable[[Any], V] = lambda document: document,
    ) -> None:
        """
        Args:
            name: Of the kind, in keys that are shared. Another shape of the values needs another name.
            most: Weight of all values of an engine.
            weigh: Of one value, of which at least one is kept whatever it weighs.
            sized: The bytes of its JSON weigh, too: nothing else bounds the texts in it.
            decode: A value of what JSON makes of it.
        """
        self._name = name
        self._most = most
        self._weigh = weigh
        self._sized = sized
        self._decode = decode
        self._lock = Lock()
        self._memories: WeakKeyDictionary[Engine, _Memory[V]] = WeakKeyDictionary()

    def one(self, connection: Connection, workspace_id: int, key: K, read: Callable[[], V]) -> V:
        """The value of a key, by `read` if nobody has it."""
        return self.many(connection, workspace_id, [key], lambda _: {key: read()})[key]

    def many(
        self, connection: Connection, workspace_id: int, keys: Collection[K], read: Callable[[list[K]], Mapping[K, V]]
    ) -> dict[K, V]:
        """The values of these keys; `read` gives those that nobody has, all of them."""
        with self._lock:
            memory = self._memories.setdefault(connection.engine, _Memory())
            found = {key: value for key in keys if (value := memory.get((workspace_id, *key))) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if not missing:
            return found
        shared = _shared.get(connection.engine)
        others, sizes = self._ask(shared, connection, workspace_id, missing)
        missing = [key for key in missing if key not in others]
        made = read(missing) if missing else {}
        sizes |= self._tell(shared, connection, workspace_id, made)
        with self._lock:
            for key, value in (*others.items(), *made.items()):
                memory.put((workspace_id, *key), value, self._weigh(value) + (sizes[key] if self._sized else 0))
            memory.shrink(self._most)
        return found | others | {key: made[key] for key in missing}

    def _ask(
        self, shared: Shared | None, connection: Connection, workspace_id: int, keys: list[K]
    ) -> tuple[dict[K, V], dict[K, int]]:
        """What others know, and the bytes of each."""
        if shared is None:
            return {}, {}
        texts = shared.get(connection, [self._text(workspace_id, key) for key in keys])
        found, sizes = {}, {}
        for key, text in zip(keys, texts, strict=True):
            if text is not None:
                with suppress(ValueError, TypeError):  # not what we wrote: as if there were nothing
                    found[key] = self._decode(json.loads(text))
                    sizes[key] = len(text)
        return found, sizes

    def _tell(
        self, shared: Shared | None, connection: Connection, workspace_id: int, values: Mapping[K, V]
    ) -> dict[K, int]:
        """Let others know; the bytes of each value, if anybody wants them."""
        if shared is None and not self._sized:
            return {}
        texts = {key: json.dumps(value, separators=(",", ":")).encode() for key, value in values.items()}
        small = {self._text(workspace_id, key): text for key, text in texts.items() if len(text) <= SHARED_MAX}
        if shared is not None and small:
            shared.put(connection, small, SHARED_FOR)
        return {key: len(text) for key, text in texts.items()}

    def _text(self, workspace_id: int, key: K) -> str:
        return ":".join((self._name, str(workspace_id), *map(str, key)))


class _Memory(Generic[V]):
    """Of one engine; the caller holds the lock."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[object, ...], tuple[V, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: tuple[object, ...]) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: tuple[object, ...], value: V, weight: int) -> None:
        self._drop(key)  # somebody else has read it at the same time
        self._values[key] = (value, weight)
        self._weight += weight

    def shrink(self, most: int) -> None:
        while self._weight > most and len(self._values) > 1:
            self._drop(next(iter(self._values)))

    def _drop(self, key: tuple[object, ...]) -> None:
        _, weight = self._values.pop(key, (None, 0))
        self._weight -= weight

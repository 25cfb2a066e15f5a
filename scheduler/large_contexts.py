"""Files of large outputs for the evaluator: asked for once, and not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from scheduler.contexts import Asking, Loaded
from scheduler.inputs import InputFiles, InputNotLoaded, Paths, output_key

_KEPT: Final = 1000  # answers that nobody has come for: their nodes were cancelled meanwhile


class LargeContexts:
    """What expressions still miss. For one thread; the files' own threads report."""

    def __init__(self, files: InputFiles, on_loaded: Callable[[], None]) -> None:
        self._files = files
        self._on_loaded = on_loaded
        self._asked: set[str] = set()
        self._answers: dict[str, Paths | InputNotLoaded] = {}
        self._thread = 0  # whose question is being put: an answer that comes at once is no news to it

    def of(self, asking: Asking, loaded: Loaded) -> Paths | InputNotLoaded | None:
        """The files, by node, or why there are none; None: not yet, `on_loaded` will be called."""
        if not loaded.large:
            return {}
        reader = _reader(asking, loaded)
        if reader not in self._answers and reader not in self._asked:
            self._asked.add(reader)
            self._thread = threading.get_ident()
            self._files.request(reader, loaded.large, partial(self._then, reader))
        answer = self._answers.pop(reader, None)
        while len(self._answers) > _KEPT:
            forgotten = next(iter(self._answers))
            del self._answers[forgotten]
            self._files.release(forgotten)
        return answer

    def done(self, asking: Asking, loaded: Loaded) -> None:
        """The expression has been evaluated."""
        if loaded.large:
            self._files.release(_reader(asking, loaded))

    def _then(self, reader: str, result: Paths | InputNotLoaded) -> None:
        self._answers[reader] = result
        self._asked.discard(reader)
        if threading.get_ident() != self._thread:
            self._on_loaded()


def _reader(asking: Asking, loaded: Loaded) -> str:
    outputs = ",".join(output_key(found) for found in loaded.large.values())
    return f"gate/{asking.run_id}/{asking.node_no}/{asking.map_index}/{outputs}"

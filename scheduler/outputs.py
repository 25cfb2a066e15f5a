"""Large outputs on their way into the object store, between the executors and the loop.

An end with a small output passes straight through. The output of any other is stored first, by a few threads, and only
then does the loop hear of the end: the loop never waits for the store, and a committed row never names an object that
is not there. Until then the node run is running and holds its pool's slots, which bounds how many ends can wait here;
what waits beyond MEMORY is kept in files.

A store that is away is tried again for PATIENCE seconds. Then the attempt is lost, from the infrastructure's own budget.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from agentflow.db.queries.attempts import parse_attempt_id
from agentflow.db.queries.outputs import INLINE_MAX, PREVIEW
from agentflow.errors import AgentFlowError
from agentflow.objects.names import output_name
from agentflow.workload import ErrorInfo, ExecutorEvent, Finished, Outcome, StoredOutput
from scheduler.service import BACKOFF_FIRST

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0  #: Seconds for which a store that is away is tried again.
MEMORY: Final = 64 * 2**20  #: Characters of waiting outputs that are kept in memory.
_THREADS: Final = 4
_PAUSE_MAX: Final = 2.0  # seconds between two tries
_LAST_WORDS: Final = 1.0  # seconds that `stop` gives to what is being stored


class Puts(Protocol):
    """What is needed of an object store."""

    def put(self, name: str, data: bytes) -> None:
        """Store an object."""


@dataclass(slots=True)
class _Waiting:
    event: Finished  #: Without its output.
    text: str  #: The output; empty when it is in `file`.
    file: Path | None = None

    def content(self) -> bytes:
        return self.text.encode() if self.file is None else self.file.read_bytes()


class OutputWriter:
    """Takes executors' events from any thread and hands them on, those with a large output once that is stored."""

    def __init__(
        self,
        store: Puts,
        emit: Callable[[ExecutorEvent], None],
        *,
        patience: float = PATIENCE,
        memory: int = MEMORY,
        threads: int = _THREADS,
    ) -> None:
        self._store = store
        self._emit = emit
        self._patience = patience
        self._memory = memory
        self._number = threads
        self._folder: Path | None = None
        self._condition = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._open: dict[str, Finished] = {}  # by attempt: ends that the loop has not heard of
        self._in_memory = 0
        self._files = 0
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, folder: Path) -> None:
        """Start the threads; `folder` takes what does not fit into memory."""
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(self._number):
            thread = threading.Thread(target=self._run, name=f"outputs-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def emit(self, event: ExecutorEvent) -> None:
        """Take an executor's event; from any thread."""
        if not isinstance(event, Finished) or event.output is None or not is_large(event.output):
            self._emit(event)
            return
        waiting = _Waiting(replace(event, output=None), event.output)
        with self._condition:
            self._open[event.attempt_id] = waiting.event
            if self._in_memory + len(waiting.text) > self._memory and self._folder is not None:
                self._spill(waiting, self._folder)
            self._in_memory += len(waiting.text)
            self._queue.append(waiting)
            self._condition.notify()

    def stop(self) -> None:
        """Store what waits if that goes quickly; the rest is lost, and its attempts run again."""
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()
        deadline = time.monotonic() + _LAST_WORDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._condition:
            left, self._open = list(self._open.values()), {}
            self._queue.clear()
        for event in left:
            self._emit(_lost(event, "the scheduler stopped before the output was in the object store"))

    def _spill(self, waiting: _Waiting, folder: Path) -> None:
        self._files += 1
        path = folder / str(self._files)
        try:
            path.write_bytes(waiting.text.encode())
        except OSError as error:  # no room: better in memory than nowhere
            log.warning("output_not_spilled", extra={"error": str(error)})
            return
        waiting.text, waiting.file = "", path

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._stopping.is_set():
                    self._condition.wait()
                if not self._queue:
                    return
                waiting = self._queue.popleft()
            try:
                self._finish(self._stored(waiting))
            except Exception as error:
                log.exception("output_writer_failed", extra={"attempt": waiting.event.attempt_id})
                self._finish(_lost(waiting.event, f"the output could not be stored: {error}"))
            with self._condition:
                self._in_memory -= len(waiting.text)
            if waiting.file is not None:
                waiting.file.unlink(missing_ok=True)

    def _finish(self, event: Finished) -> None:
        with self._condition:
            known = self._open.pop(event.attempt_id, None) is not None
        if known:
            self._emit(event)

    def _stored(self, waiting: _Waiting) -> Finished:
        """The end with its output stored, or the loss of the attempt."""
        data, name = waiting.content(), output_name(*parse_attempt_id(waiting.event.attempt_id))
        deadline, pause = time.monotonic() + self._patience, BACKOFF_FIRST
        while True:
            try:
                self._store.put(name, data)
            except AgentFlowError as error:
                if self._stopping.is_set() or time.monotonic() + pause > deadline:
                    return _lost(waiting.event, f"its output of {len(data):,} bytes could not be stored: {error}")
                log.warning("output_waits_for_store", extra={"object": name, "error": error.message})
                self._stopping.wait(pause)
                pause = min(2 * pause, _PAUSE_MAX)
                continue
            preview = data[: 4 * PREVIEW].decode(errors="ignore")[:PREVIEW]
            return replace(waiting.event, stored=StoredOutput(name, len(data), preview))


def is_large(output: str) -> bool:
    """Whether an output does not stay in its row."""
    return len(output) > INLINE_MAX or (4 * len(output) > INLINE_MAX and len(output.encode()) > INLINE_MAX)


def _lost(event: Finished, message: str) -> Finished:
    return replace(event, outcome=Outcome.LOST, error=ErrorInfo(type="OutputNotStored", message=message))

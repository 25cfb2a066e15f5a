"""Large inputs: outputs that a template reads and that do not fit into a workload, put into files beside the runners.

Threads of ours copy an output from the object store (or, a mapped node's list, from database and store) into a file;
its reader gets the path. So the loop never waits for the store, the runner needs no key to it, and the interpreter is
not held up by documents of many megabytes. A file is kept for others who read the same, up to CACHE bytes.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from agentflow.db.engine import transact
from agentflow.db.queries.outputs import FoundOutput
from agentflow.errors import AgentFlowError
from agentflow.objects.store import ObjectStoreUnreachable
from agentflow.runs.outputs import Objects, stream_output
from scheduler.service import BACKOFF_FIRST

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE: Final = 30.0  #: Seconds for which a store that is away is tried again.
CACHE: Final = 2**30  #: Bytes of files that are kept although nobody reads them now.
_THREADS: Final = 4
_PAUSE_MAX: Final = 2.0  # seconds between two tries

#: By name of the node: where its output is.
Wanted = Mapping[str, FoundOutput]
#: By name of the node: the file that holds its output.
Paths = dict[str, str]


class InputNotLoaded(AgentFlowError):
    """An output that is an input here could not be fetched."""

    word = "input-not-loaded"


class Store(Objects, Protocol):
    """What is needed of an object store."""

    def download(self, name: str, path: Path) -> None:
        """Copy an object into a file."""


Then = Callable[[Paths | InputNotLoaded], None]


@dataclass(frozen=True, slots=True)
class _Job:
    reader: str
    wanted: Wanted
    then: Then


class InputFiles:
    """Fetches outputs into files, for readers who say when they are done. Callable from any thread."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        threads: int = _THREADS,
        patience: float = PATIENCE,
        cache: int = CACHE,
    ) -> None:
        """`threads` 0: everything is fetched while the caller waits, for tests that run the engine by hand."""
        self._engine = engine
        self._store = store
        self._patience = patience
        self._cache = cache
        self._number = threads
        self._folder = Path()
        self._condition = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._files: dict[str, tuple[Path, int]] = {}  # by key, the one used last at the end: path and bytes
        self._loading: dict[str, threading.Lock] = {}
        self._readers: dict[str, list[str]] = {}  # keys by reader
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, folder: Path) -> None:
        """Start the threads; `folder` takes the files."""
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)  # attempts may run as another user; the files' names cannot be guessed
        self._folder = folder
        for number in range(self._number):
            thread = threading.Thread(target=self._run, name=f"inputs-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Fetch nothing more; who waits is told so. A request in progress is not waited for."""
        self._stopping.set()
        with self._condition:
            left = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        for job in left:
            job.then(InputNotLoaded("the scheduler stopped before its inputs were there"))

    def request(self, reader: str, wanted: Wanted, then: Then) -> None:
        """Call `then` with the files, at once if they are here, else from another thread; or with why there are none.

        The files stay until `release` of the same reader.
        """
        paths = self._here(reader, wanted)
        if paths is not None:
            then(paths)
            return
        job = _Job(reader, wanted, then)
        if self._number == 0:
            self._fetch(job)
            return
        with self._condition:
            self._queue.append(job)
            self._condition.notify()

    def release(self, reader: str) -> None:
        """This reader is done, if it was one."""
        self._readers.pop(reader, None)

    def _here(self, reader: str, wanted: Wanted) -> Paths | None:
        keys = [output_key(found) for found in wanted.values()]
        with self._condition:
            if any(key not in self._files for key in keys):
                return None
            self._readers[reader] = keys
            for key in keys:
                self._files[key] = self._files.pop(key)
            return {node: str(self._files[key][0]) for node, key in zip(wanted, keys, strict=True)}

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._stopping.is_set():
                    self._condition.wait()
                if self._stopping.is_set():
                    return
                job = self._queue.popleft()
            self._fetch(job)

    def _fetch(self, job: _Job) -> None:
        with self._condition:  # from now on none of them is removed
            self._readers[job.reader] = [output_key(found) for found in job.wanted.values()]
        result: Paths | InputNotLoaded
        try:
            result = {node: str(self._load(found)) for node, found in job.wanted.items()}
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one's inputs, others go on
            self.release(job.reader)
            result = InputNotLoaded(f"its inputs could not be loaded: {error}")
        job.then(result)

    def _load(self, found: FoundOutput) -> Path:
        """The file of an output; of several who want the same one fetches it."""
        key = output_key(found)
        with self._condition:
            lock = self._loading.setdefault(key, threading.Lock())
        with lock:
            with self._condition:
                if key in self._files:
                    return self._files[key][0]
            path = self._folder / secrets.token_hex(16)
            self._patiently(found, path)
            with self._condition:
                self._files[key] = (path, path.stat().st_size)
                self._loading.pop(key, None)
                self._make_room()
            return path

    def _patiently(self, found: FoundOutput, path: Path) -> None:
        deadline, pause = time.monotonic() + self._patience, BACKOFF_FIRST
        while True:
            try:
                self._copy(found, path)
            except Exception as error:
                path.unlink(missing_ok=True)
                gone = isinstance(error, AgentFlowError) and not isinstance(error, ObjectStoreUnreachable)
                if gone or self._stopping.is_set() or time.monotonic() + pause > deadline:
                    raise
                log.warning("input_waits_for_store", extra={"run": str(found.run_id), "error": str(error)})
                self._stopping.wait(pause)
                pause = min(2 * pause, _PAUSE_MAX)
                continue
            return

    def _copy(self, found: FoundOutput, path: Path) -> None:
        if found.ref is not None:
            self._store.download(found.ref, path)
        else:
            with path.open("wb") as file:
                file.writelines(stream_output(self._do, self._store, found))
        path.chmod(0o444)

    def _do(self, work: Callable[[Connection], T], /) -> T:
        return transact(self._engine, work)

    def _make_room(self) -> None:
        """Remove the files that were used longest ago and that nobody reads, until the rest is small enough."""
        total = sum(size for _, size in self._files.values())
        if total <= self._cache:
            return
        read = {key for keys in list(self._readers.values()) for key in keys}
        for key in [key for key in self._files if key not in read]:
            path, size = self._files.pop(key)
            path.unlink(missing_ok=True)
            total -= size
            if total <= self._cache:
                return


def output_key(found: FoundOutput) -> str:
    """What changes with every new output of a node run."""
    return found.ref or f"{found.run_id}/{found.node_no}/{found.map_index}/{found.finished_at}"

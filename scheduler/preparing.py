"""Workloads that wait for large inputs between the claim and the executor."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial

from agentflow.workload import ErrorInfo, Finished, Outcome, Workload
from scheduler.inputs import InputFiles, InputNotLoaded, Paths, Wanted
from scheduler.shares import Place


class Preparing:
    """Fetches inputs; the loop's thread begins, stops and takes, the files' threads report."""

    def __init__(self, files: InputFiles, on_prepared: Callable[[], None]) -> None:
        self._files = files
        self._on_prepared = on_prepared
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Place, Workload]] = {}  # by attempt: where it will run, and what is to be run
        self._ready: list[tuple[Place, Workload]] = []
        self._ended: list[Finished] = []

    @property
    def out(self) -> Mapping[Place, int]:
        """How many workloads the executors do not know of yet, by where they will run."""
        with self._lock:
            return Counter(place for place, _ in (*self._waiting.values(), *self._ready))

    def begin(self, place: Place, workload: Workload, wanted: Wanted) -> None:
        """Fetch the inputs of a workload that will run there."""
        with self._lock:
            self._waiting[workload.attempt_id] = (place, workload)
        self._files.request(workload.attempt_id, wanted, partial(self._then, workload.attempt_id))

    def stop(self, attempt_ids: Collection[str]) -> None:
        """These attempts need not run any more."""
        with self._lock:
            stopped = [self._waiting.pop(attempt)[1] for attempt in attempt_ids if attempt in self._waiting]
            self._ended += [_ended(workload, Outcome.CANCELLED, None) for workload in stopped]
        if stopped:
            self._on_prepared()

    def give_back(self) -> None:
        """None of them is to begin here any more."""
        with self._lock:
            back = [*self._waiting.values(), *self._ready]
            ready = [workload.attempt_id for _, workload in self._ready]
            self._waiting.clear()
            self._ready.clear()
            self._ended += [_ended(workload, Outcome.RETURNED, None) for _, workload in back]
        for attempt in ready:
            self._files.release(attempt)

    def forget(self) -> list[str]:
        """Others have taken over all attempts; those that nobody will report an end of."""
        with self._lock:
            gone = [*self._waiting, *(workload.attempt_id for _, workload in self._ready)]
            gone += [event.attempt_id for event in self._ended]
            self._waiting.clear()
            self._ready.clear()
            self._ended.clear()
        for attempt in gone:
            self._files.release(attempt)
        return gone

    def take(self) -> tuple[list[tuple[Place, Workload]], list[Finished]]:
        """What executors may be given now, and the ends of attempts that cannot begin."""
        with self._lock:
            ready, self._ready = self._ready, []
            ended, self._ended = self._ended, []
        return ready, ended

    def _then(self, attempt_id: str, result: Paths | InputNotLoaded) -> None:
        with self._lock:
            place, workload = self._waiting.pop(attempt_id, (None, None))
            if place is None or workload is None:  # stopped meanwhile
                self._files.release(attempt_id)
                return
            if isinstance(result, InputNotLoaded):
                error = ErrorInfo(type="InputNotLoaded", message=result.message)
                self._ended.append(_ended(workload, Outcome.LOST, error))
            else:
                self._ready.append((place, workload.model_copy(update={"inputs": result})))
        self._on_prepared()


def _ended(workload: Workload, outcome: Outcome, error: ErrorInfo | None) -> Finished:
    return Finished(workload.attempt_id, workload.token, outcome, None, datetime.now(UTC), None, error)

"""Triggers the runs, evenly over the storm, through a database that may be down or asleep at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from agentflow import runs
from agentflow.catalog import apply_spec
from agentflow.db.engine import make_engine, transact
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy
from tests.chaos.shapes import Shape

ACTOR = "chaos"
PATIENCE = 0.2  # seconds between two tries
_KNOWN = text("SELECT count(*) FROM run WHERE (params ->> 'number')::int = :number AND parent_run_id IS NULL")


class Feeder:
    """Creates run after run; a run whose confirmation was lost is looked for, not created twice."""

    def __init__(self, url: str, shapes: Sequence[Shape], turns: Sequence[Shape], *, seconds: float) -> None:
        self._engine: Engine = make_engine(url, pool_size=1, application_name="chaos-feeder")
        self._turns = turns
        self._seconds = seconds
        self._thread = threading.Thread(target=self._feed, name="feeder")
        self._giving_up = threading.Event()
        for shape in shapes:
            spec = parse_document(shape.document())
            transact(self._engine, partial(apply_spec, spec=spec, source="api", actor=ACTOR))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all are created."""
        self._thread.join()
        self._engine.dispose()

    def stop(self) -> None:
        """End early."""
        self._giving_up.set()
        self.join()

    def _feed(self) -> None:
        began = time.monotonic()
        for number, shape in enumerate(self._turns):
            due = began + self._seconds * number / len(self._turns)
            self._giving_up.wait(max(0.0, due - time.monotonic()))
            self._persist(partial(_create, name=shape.name, number=number), partial(_is_known, number=number))

    def _persist(self, work: Callable[[Connection], Any], done: Callable[[Connection], bool]) -> None:
        tried = False
        while not self._giving_up.is_set():
            try:
                if not (tried and transact(self._engine, done)):
                    tried = True
                    transact(self._engine, work)
            except DBAPIError:
                self._giving_up.wait(PATIENCE)
            else:
                return


def _create(connection: Connection, *, name: str, number: int) -> None:
    runs.create_run(connection, name, {"number": number}, triggered_by=TriggeredBy.MANUAL, actor=ACTOR)


def _is_known(connection: Connection, *, number: int) -> bool:
    return bool(connection.scalar(_KNOWN, {"number": number}))

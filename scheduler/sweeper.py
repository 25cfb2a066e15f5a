"""Deletes the objects of runs and months that are gone. Schedulers may do it side by side: deleting twice harms nothing."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

from sqlalchemy import Engine

from agentflow.db.engine import transact
from agentflow.db.queries.trash import discarded, forget_discarded
from agentflow.errors import AgentFlowError

log = logging.getLogger(__name__)

SWEEP_EVERY = 60.0  # seconds


class Deletes(Protocol):
    """What is needed of an object store."""

    def delete_below(self, prefix: str) -> int:
        """Delete all objects below a prefix."""


class Sweeper:
    """Empties the trash; no transaction is open while the store is at work."""

    def __init__(self, engine: Engine, store: Deletes) -> None:
        self._engine = engine
        self._store = store

    def sweep(self) -> int:
        """Delete what is noted now; how many objects. A store that is away is tried again next time."""
        count = 0
        while prefixes := transact(self._engine, discarded):
            for prefix in prefixes:
                try:
                    count += self._store.delete_below(prefix)
                except AgentFlowError as error:
                    log.warning("objects_not_deleted", extra={"prefix": prefix, "error": error.message})
                    return count
                transact(self._engine, partial(forget_discarded, prefix=prefix))
        return count

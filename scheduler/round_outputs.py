"""Large outputs of sub-runs on their way into the object store: asked for once, and not waited for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agentflow.db.queries.attempts import AttemptKey, attempt_id
from agentflow.workload import ErrorInfo, ExecutorEvent, Finished, Outcome, StoredOutput
from scheduler.outputs import OutputWriter, Puts, is_large

#: Seconds for which a store that is away is tried again: nobody's slot waits for it, and a loss is a whole sub-run that
#: runs once more.
PATIENCE: Final = 300.0


class RoundOutputs:
    """Stores what the evaluator gave. For one thread; the writer's own thread reports."""

    def __init__(self, store: Puts | None, on_stored: Callable[[], None]) -> None:
        """Without a store everything stays in its row, for tests that run the engine by hand."""
        self._writer = OutputWriter(store, self._ended, patience=PATIENCE, threads=1) if store is not None else None
        self._on_stored = on_stored
        self._asked: dict[str, bytes] = {}  # by attempt: the digest of what is being stored, or was
        self._answers: dict[str, Finished] = {}

    def start(self, folder: Path) -> None:
        """Start the writer's thread."""
        if self._writer is not None:
            self._writer.start(folder)

    def stop(self) -> None:
        """Stop it; what is not stored yet is evaluated again by another scheduler."""
        if self._writer is not None:
            self._writer.stop()

    def of(self, key: AttemptKey, text: str) -> str | StoredOutput | ErrorInfo | None:
        """The output as its row holds it, or why it could not be stored, a loss; None: not yet, `on_stored` will be called."""
        if self._writer is None or not is_large(text):
            return text
        name, digest = attempt_id(key), hashlib.sha256(text.encode()).digest()
        if self._asked.get(name) != digest:  # new, or its sub-run was cleared and has given something else
            self._asked[name] = digest
            self._answers.pop(name, None)
            self._writer.emit(Finished(name, digest.hex(), Outcome.SUCCESS, None, datetime.now(UTC), text))
        event = self._answers.pop(name, None)
        if event is None:
            return None
        del self._asked[name]
        return event.stored or event.error

    def _ended(self, event: ExecutorEvent) -> None:
        asked = self._asked.get(event.attempt_id)
        if isinstance(event, Finished) and asked is not None and event.token == asked.hex():
            self._answers[event.attempt_id] = event
            self._on_stored()

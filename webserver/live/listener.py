"""LISTEN on a connection of its own: tells which runs have moved, which workflows were changed (ENGINE 7)."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from agentflow.db.notify import LIVE
from agentflow.postgres import libpq_url
from webserver.live.feed import Moved
from webserver.ops import metrics

log = logging.getLogger(__name__)

SILENCE = 10.0  #: Seconds without a notification after which the connection is tried.
BACKOFF_FIRST, BACKOFF_MAX = 0.1, 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Note:
    """What a notification says of a workspace."""

    workspace: int
    moved: Moved
    workflows: frozenset[str] | None  #: Names of those that were changed; None: too many to name them.
    rights: bool = False  #: Somebody has lost a right, in whatever workspace.


class Listener:
    """Calls `on_note` for each notification, and `on_connected` after every (re)connect: read what was missed."""

    def __init__(self, url: str, *, on_note: Callable[[Note], None], on_connected: Callable[[], None]) -> None:
        """`url`: a pooler in between must not swallow notifications."""
        self._url = libpq_url(url)
        self._on_note = on_note
        self._on_connected = on_connected
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="live-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is noticed at the next notification or within SILENCE, and nobody need wait."""
        self._stopping.set()

    def _run(self) -> None:
        backoff = BACKOFF_FIRST
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except psycopg.Error as error:
                log.warning("listen_lost", extra={"error": str(error).strip().partition("\n")[0]})
            if time.monotonic() - began > BACKOFF_MAX:
                backoff = BACKOFF_FIRST
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, BACKOFF_MAX)

    def _listen(self) -> None:
        with psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name="agentflow-live",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        ) as connection:
            connection.execute(f"LISTEN {LIVE}")
            metrics.LIVE_LISTENS.inc()
            self._on_connected()
            while not self._stopping.is_set():
                heard = False
                for note in connection.notifies(timeout=SILENCE):
                    heard = True
                    self._tell(note.payload)
                    if self._stopping.is_set():
                        return
                if not heard:
                    connection.execute("SELECT 1")

    def _tell(self, payload: str) -> None:
        try:
            note = read_note(payload)
        except (ValueError, KeyError, TypeError, AttributeError):  # anybody may NOTIFY; only ours is understood
            log.warning("live_note_not_understood", extra={"bytes": len(payload)})
            return
        self._on_note(note)


def read_note(payload: str) -> Note:
    """The words of `agentflow.db.notify`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: They are somebody else's.
    """
    document = json.loads(payload)
    runs, workflows = document["runs"], document.get("workflows", [])
    moved = None if runs == "many" else {uuid.UUID(run): int(seq) for run, seq in runs.items()}
    changed = None if workflows == "many" else frozenset(map(str, workflows))
    return Note(int(document["ws"]), moved, changed, rights=document.get("rights") is True)

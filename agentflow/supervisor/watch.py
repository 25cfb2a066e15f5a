"""Notices at once when the embedded Postgres dies: an idle connection whose socket ends."""

from __future__ import annotations

import logging

import psycopg

from agentflow.errors import AgentFlowError
from agentflow.postgres import DatabaseHandle, libpq_url

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between tries to bring the server back


class DatabaseWatch:
    """Keeps the embedded server of a handle running; a server of the user's own is left alone."""

    def __init__(self, handle: DatabaseHandle) -> None:
        self._handle = handle
        self._connection: psycopg.Connection[tuple[str]] | None = None
        self._delay = FIRST_DELAY
        self.due: float | None = None  #: When to try again, on the monotonic clock.

    def open(self) -> None:
        """Begin to watch."""
        if self._handle.embedded is not None:
            self._connection = psycopg.connect(
                libpq_url(self._handle.url), autocommit=True, connect_timeout=5, application_name="agentflow-supervisor"
            )

    def close(self) -> None:
        """Stop watching."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fileno(self) -> int | None:
        """Readable when the server said something, or died; None when there is nothing to watch."""
        return None if self._connection is None or self._connection.closed else self._connection.fileno()

    def lost(self) -> bool:
        """Whether the connection is gone; reads what the server said."""
        if self._connection is None:
            return False
        try:
            self._connection.execute("SELECT 1")
        except psycopg.OperationalError:
            self.close()
            return True
        return False

    def recover(self, now: float) -> bool:
        """Bring the server back; returns whether its address has changed. After a failure `due` says when to try again."""
        before = self._handle.url
        try:
            self._handle.ensure_running()
            self.open()
        except (AgentFlowError, psycopg.OperationalError) as error:
            logger.error("postgres_down", extra={"error": str(error), "again_in": self._delay})
            self.due, self._delay = now + self._delay, min(2 * self._delay, LONGEST_DELAY)
            return False
        self.due, self._delay = None, FIRST_DELAY
        logger.warning("postgres_restarted")
        return self._handle.url != before

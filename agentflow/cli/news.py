"""Waits for something to happen in the database: NOTIFY where it works, else just the time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import psycopg

CHANNEL = "agentflow_live"  #: Every batch of state changes says so here (ENGINE 7).


class News:
    """A connection that listens. Behind a pooler nothing arrives; then waiting is polling."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        self._connect()
        return self

    def _connect(self) -> None:
        import psycopg

        from agentflow.postgres import libpq_url

        try:
            self._connection = psycopg.connect(libpq_url(self._url), autocommit=True, connect_timeout=5)
            self._connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error:  # polling still works; the reading connection tells what is wrong
            self._drop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or at the first notification; one that came since the last call counts."""
        import psycopg

        if self._connection is None:
            time.sleep(seconds)
            self._connect()  # the server may be back
            return
        try:
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

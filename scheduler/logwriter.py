"""Stores log chunks with COPY, in a thread with a connection of its own (ENGINE 11).

The queue is bounded by what executors hold back: each chunk is acknowledged through `stored` only once it is on disk, and
an executor reads no more from a runner with too many open ones. So a flood slows its own runner, never the loop.

Chunks that the database cannot take (no space left) are given up, and a gap of one line is stored in their place as
soon as that is possible, so that a reader sees what is missing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from agentflow.db.queries.attempts import parse_attempt_id
from agentflow.postgres import libpq_url
from agentflow.workload import LogChunk
from scheduler.loggaps import Gaps
from scheduler.service import BACKOFF_FIRST, BACKOFF_MAX

log = logging.getLogger(__name__)

BATCH = 200  #: Chunks of one COPY.
_COPY = """
COPY log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data) FROM STDIN
"""
_NO_SPACE = ("53100", "53200", "58030")  #: Disk full, out of memory, I/O error: retrying would only hold up runners.


class LogWriter:
    """Takes chunks from any thread and stores them in order."""

    def __init__(self, url: str) -> None:
        self._url = libpq_url(url)
        self._condition = threading.Condition()
        self._queue: deque[LogChunk] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection | None = None
        self._gaps = Gaps()
        self.dropped = 0  #: Chunks that the database would not take.

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="logwriter", daemon=True)
        self._thread.start()

    def put(self, chunk: LogChunk) -> None:
        """Take a chunk; returns at once."""
        with self._condition:
            self._queue.append(chunk)
            self._condition.notify_all()

    def stop(self) -> None:
        """Store what is queued, then stop. A database that is gone is not waited for."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        backoff = BACKOFF_FIRST
        while True:
            with self._condition:
                while not self._queue and not self._stopping and self._condition.wait(self._gaps.patience()):
                    pass
                stopping = self._stopping and not self._queue
                batch = [self._queue[index] for index in range(min(BATCH, len(self._queue)))]
            if self._gaps and (stopping or self._gaps.due()):
                self._store_gaps()
            if stopping:
                break
            if not batch:
                continue
            try:
                self._store_all(batch)
                backoff = BACKOFF_FIRST
            except psycopg.OperationalError as error:
                log.warning("log_store_waits", extra={"error": str(error).strip()})
                self._close()
                with self._condition:
                    if self._stopping:
                        break
                    self._condition.wait(backoff)
                backoff = min(backoff * 2, BACKOFF_MAX)
                continue
            self._done(batch)
        self._close()

    def _store(self, batch: list[LogChunk]) -> None:
        if self._connection is None:  # as the tables' owner: Postgres has no COPY for a role whose rows are policed
            self._connection = psycopg.connect(
                self._url, autocommit=False, connect_timeout=5, application_name="agentflow-logs"
            )
        try:
            with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                for chunk in batch:
                    copy.write_row(_row(chunk))
            self._connection.commit()
        except psycopg.Error:
            if self._connection.info.transaction_status is not TransactionStatus.UNKNOWN:
                self._connection.rollback()
            raise

    def _store_all(self, batch: list[LogChunk]) -> None:
        """Store what the database takes, give up what it refuses; raises when it is not there."""
        try:
            self._store(batch)
        except psycopg.Error as error:
            if _is_away(error):
                raise
            # One bad chunk (a duplicate after a lost commit, one that does not fit) must not take its neighbours along.
            for chunk in batch:
                self._store_or_give_up(chunk)

    def _store_or_give_up(self, chunk: LogChunk) -> None:
        try:
            self._store([chunk])
        except psycopg.errors.UniqueViolation:
            return  # stored already: the commit's answer was lost
        except psycopg.Error as error:
            if _is_away(error):
                raise
            self.dropped += 1
            reason = (error.diag.message_primary or str(error)).strip()
            if self._gaps.add(chunk, reason):  # a flood is told once
                log.error("log_chunks_dropped", extra={"attempt": chunk.attempt_id, "error": reason})

    def _store_gaps(self) -> None:
        """Try to store the gaps: so small a row may still fit where its chunks did not."""
        for key, gap in self._gaps.waiting():
            try:
                self._store([gap])
            except psycopg.errors.UniqueViolation:
                log.debug("gap_stored_before", extra={"attempt": gap.attempt_id})
            except psycopg.Error as error:
                log.debug("gap_not_stored", extra={"attempt": gap.attempt_id, "error": str(error).strip()})
                if _is_away(error):
                    self._close()
                    return
                continue
            self._gaps.stored(key)

    def _done(self, batch: list[LogChunk]) -> None:
        with self._condition:
            for _ in batch:
                self._queue.popleft()
            self._condition.notify_all()
        for chunk in batch:
            chunk.stored()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_away(error: psycopg.Error) -> bool:
    """Whether the database itself is gone, so that the same rows may be tried again later."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate not in _NO_SPACE


def _row(chunk: LogChunk) -> tuple[Any, ...]:
    return (
        *parse_attempt_id(chunk.attempt_id),
        chunk.chunk_no,
        chunk.first_seq,
        chunk.lines,
        chunk.truncated_bytes,
        chunk.data,
    )

"""What stands in a log for lines that could not be stored: one line that says so, under the number of the first."""

from __future__ import annotations

import json
import time
import zlib
from dataclasses import replace

from agentflow.workload import LogChunk

RETRY = 1.0  #: Seconds between tries to store gaps: the space may be back.
MAX_GAPS = 10_000  #: Attempts whose gap is kept in memory; of more, only the scheduler's log tells.


Key = tuple[str, int]  #: Attempt id, and the number of the chunk that would continue its gap.


class Gaps:
    """Gaps that wait to be stored; each grows while the chunks that are given up follow each other. For one thread."""

    def __init__(self) -> None:
        self._waiting: dict[Key, LogChunk] = {}
        self._due = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, chunk: LogChunk, reason: str) -> bool:
        """This chunk is given up; returns whether a new gap begins with it."""
        before = self._waiting.pop((chunk.attempt_id, chunk.chunk_no), None)
        if before is not None or len(self._waiting) < MAX_GAPS:
            self._waiting[chunk.attempt_id, chunk.chunk_no + 1] = _gap(before, chunk, reason)
        return before is None

    def due(self) -> bool:
        """Whether it is time to try to store them."""
        return bool(self._waiting) and time.monotonic() >= self._due

    def patience(self) -> float | None:
        """Seconds until `due`; None without any gap."""
        return max(0.0, self._due - time.monotonic()) if self._waiting else None

    def waiting(self) -> list[tuple[Key, LogChunk]]:
        """All of them; they are due again after a while, unless they are `stored`."""
        self._due = time.monotonic() + RETRY
        return list(self._waiting.items())

    def stored(self, key: Key) -> None:
        """This one is on disk."""
        self._waiting.pop(key, None)


def _gap(before: LogChunk | None, chunk: LogChunk, reason: str) -> LogChunk:
    first = before.first_seq if before is not None else chunk.first_seq
    last = chunk.first_seq + chunk.lines - 1
    text = f"gap: lines {first} to {last} could not be stored: {reason}"
    line = json.dumps([first, round(time.time(), 6), "system", "error", text], ensure_ascii=False) + "\n"
    return replace(
        chunk,
        chunk_no=before.chunk_no if before is not None else chunk.chunk_no,
        first_seq=first,
        lines=last - first + 1,
        truncated_bytes=chunk.truncated_bytes,
        data=zlib.compress(line.encode()),
        raw_bytes=len(line),
    )

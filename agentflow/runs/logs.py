"""Reading logs, decompressed line by line."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.cursors import read_cursor, write_cursor
from agentflow.db.models.history import NOT_MAPPED
from agentflow.runs.address import Place, resolve_address
from agentflow.runs.ids import find_run

_CHUNKS = text("""
SELECT vn.node_id, c.node_no, c.map_index, c.attempt, c.first_seq, c.lines, c.data
FROM log_chunk c JOIN run r ON r.id = c.run_id
JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = c.node_no
WHERE c.run_id = :run AND r.id = :run
  AND (CAST(:node AS text) IS NULL OR vn.node_id = :node) AND (CAST(:index AS int) IS NULL OR c.map_index = :index) AND (CAST(:attempt AS int) IS NULL OR c.attempt = :attempt)
  AND c.first_seq + c.lines > :after AND (CAST(:until AS int) IS NULL OR c.first_seq <= :until)
  AND (CAST(:from_no AS int) IS NULL OR (c.node_no, c.map_index, c.attempt) > (:from_no, :from_index, :from_attempt)
    OR (c.node_no, c.map_index, c.attempt) = (:from_no, :from_index, :from_attempt)
      AND c.first_seq + c.lines - 1 > :from_seq)
ORDER BY c.node_no, c.map_index, c.attempt, c.chunk_no
""")
_LAST = text("""
SELECT data FROM log_chunk
WHERE run_id = :run AND node_no = :node AND map_index = :index AND attempt = :attempt ORDER BY chunk_no DESC LIMIT 1
""")
_BATCH = 20  #: Chunks fetched at once: about a megabyte of text.
CURSOR = "run-logs"


@dataclass(frozen=True, slots=True)
class Position:
    """A line within the log of a run: everything up to it has been told."""

    node_no: int
    map_index: int
    attempt: int
    seq: int  #: Of a line that tells of a gap: the last one that is missing.

    @property
    def key(self) -> tuple[int, int, int]:
        """Whose line it is."""
        return self.node_no, self.map_index, self.attempt


def read_logs(
    connection: Connection,
    run_id: str,
    node: str | None = None,
    attempt: int | None = None,
    *,
    after: int = 0,
    until: int | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> Iterator[dict[str, Any]]:
    """Log lines in order of node, index, attempt and line; `after` leaves out lines up to that number, `until` those behind that one.

    `node` is an address: a mapped node's gives the lines of all its indexes, a sub-run's those of all its nodes. Lines that could not be stored are told by one line in their place.

    Raises:
        NotFound: No such run or node.
        UsageError: `node` is not an address.
    """
    for _, line in _lines(connection, run_id, node, attempt, after, until, None, workspace):
        yield line


def list_log_lines(
    connection: Connection,
    run_id: str,
    node: str | None = None,
    attempt: int | None = None,
    *,
    after: int = 0,
    until: int | None = None,
    limit: int = 1000,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of what `read_logs` reads, and the cursor of the next page (None at the end). Raises as that."""
    begin = None if cursor is None else Position(*json.loads(read_cursor(CURSOR, cursor, _position)))
    lines = _lines(connection, run_id, node, attempt, after, until, begin, workspace)
    found = list(islice(lines, limit + 1))
    following = None
    if len(found) > limit:
        place = found[limit - 1][0]
        following = write_cursor(CURSOR, json.dumps([*place.key, place.seq]))
    return [line for _, line in found[:limit]], following


def _position(text_form: str) -> str:
    """Check the text of a cursor's key.

    Raises:
        ValueError: It is not four small numbers.
    """
    found = json.loads(text_form)
    if not (isinstance(found, list) and len(found) == 4 and all(type(n) is int and -1 <= n < 2**31 for n in found)):
        raise ValueError(text_form)
    return text_form


def _lines(
    connection: Connection,
    run_id: str,
    node: str | None,
    attempt: int | None,
    after: int,
    until: int | None,
    begin: Position | None,
    workspace: str,
) -> Iterator[tuple[Position, dict[str, Any]]]:
    if node is None:
        place = Place(find_run(connection, run_id, workspace=workspace), None)
    else:
        place = resolve_address(connection, run_id, node, workspace=workspace)
    index = None if place.map_index == NOT_MAPPED else place.map_index
    parameters = {"run": place.run_id, "node": place.node, "index": index, "attempt": attempt}
    parameters |= {"after": after, "until": until}
    names = ("from_no", "from_index", "from_attempt", "from_seq")
    parameters |= dict(zip(names, (*begin.key, begin.seq) if begin else (None,) * 4, strict=True))
    following = {begin.key: begin.seq + 1} if begin else {}  # only of the attempt at hand
    for row in _chunks(connection, parameters):
        stream_key = (row.node_no, row.map_index, row.attempt)
        expected = following.get(stream_key, row.first_seq if after else 1)
        following = {stream_key: row.first_seq + row.lines}
        lines = [json.loads(line) for line in zlib.decompress(row.data).splitlines()]
        if row.first_seq > expected and lines:
            missing = f"gap: lines {expected} to {row.first_seq - 1} are missing"
            lines.insert(0, [expected, lines[0][1], "system", "error", missing])
        told = begin.seq if begin is not None and begin.key == stream_key else 0
        for seq, at, stream, level, message in lines:
            if seq > max(after, told) and (until is None or seq <= until):
                last = row.first_seq - 1 if seq < row.first_seq else seq
                yield (
                    Position(*stream_key, last),
                    {
                        "node": row.node_id,
                        "map_index": None if row.map_index < 0 else row.map_index,
                        "attempt": row.attempt,
                        "seq": seq,
                        "at": iso(datetime.fromtimestamp(at, UTC)),
                        "stream": stream,
                        "level": level,
                        "text": message,
                    },
                )


def _chunks(connection: Connection, parameters: dict[str, Any]) -> Iterator[Row[Any]]:
    streaming = connection.execution_options(stream_results=True, max_row_buffer=_BATCH)
    with streaming.execute(_CHUNKS, parameters) as result:  # closes the cursor for a reader that stops halfway
        yield from result.yield_per(_BATCH)


def last_line(connection: Connection, run_id: uuid.UUID, node_no: int, map_index: int, attempt: int) -> str | None:
    """Text of the newest stored line of an attempt."""
    key = {"run": run_id, "node": node_no, "index": map_index, "attempt": attempt}
    data = connection.scalar(_LAST, key)
    lines = zlib.decompress(data).splitlines() if data is not None else []
    return str(json.loads(lines[-1])[4]) if lines else None

"""Reading logs, decompressed line by line."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.clock import iso
from agentflow.errors import NotFound
from agentflow.runs.ids import parse_run_id

_CHUNKS = text("""
SELECT vn.node_id, c.map_index, c.attempt, c.first_seq, c.lines, c.data
FROM log_chunk c JOIN run r ON r.id = c.run_id
JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = c.node_no
WHERE c.run_id = :run AND r.id = :run
  AND (CAST(:node AS text) IS NULL OR vn.node_id = :node) AND (CAST(:attempt AS int) IS NULL OR c.attempt = :attempt)
  AND c.first_seq + c.lines > :after
ORDER BY c.node_no, c.map_index, c.attempt, c.chunk_no
""")
_KNOWN = text("""
SELECT EXISTS (SELECT 1 FROM version_node vn WHERE vn.version_id = r.version_id AND vn.node_id = :node) AS node
FROM run r WHERE r.id = :run
""")
_BATCH = 20  #: Chunks fetched at once: about a megabyte of text.


def read_logs(
    connection: Connection, run_id: str, node: str | None = None, attempt: int | None = None, *, after: int = 0
) -> Iterator[dict[str, Any]]:
    """Log lines in order of node, attempt and line; `after` leaves out lines up to that number.

    Lines that could not be stored are told by one line in their place.

    Raises:
        NotFound: No such run or node.
    """
    key = parse_run_id(run_id)
    known = connection.execute(_KNOWN, {"run": key, "node": node}).one_or_none()
    if known is None:
        raise NotFound(f"There is no run {run_id}.", hint="`agentflow runs list` shows the newest")
    if node is not None and not known.node:
        raise NotFound(f"There is no node {node!r} in the run {run_id}.", hint="`agentflow runs show` lists its nodes")
    parameters = {"run": key, "node": node, "attempt": attempt, "after": after}
    following: dict[tuple[str, int, int], int] = {}  # only of the attempt at hand
    for row in _chunks(connection, parameters):
        place = (row.node_id, row.map_index, row.attempt)
        expected = following.get(place, row.first_seq if after else 1)
        following = {place: row.first_seq + row.lines}
        lines = [json.loads(line) for line in zlib.decompress(row.data).splitlines()]
        if row.first_seq > expected and lines:
            missing = f"gap: lines {expected} to {row.first_seq - 1} are missing"
            lines.insert(0, [expected, lines[0][1], "system", "error", missing])
        for seq, at, stream, level, message in lines:
            if seq > after:
                yield {
                    "node": row.node_id,
                    "map_index": None if row.map_index < 0 else row.map_index,
                    "attempt": row.attempt,
                    "seq": seq,
                    "at": iso(datetime.fromtimestamp(at, UTC)),
                    "stream": stream,
                    "level": level,
                    "text": message,
                }


def _chunks(connection: Connection, parameters: dict[str, Any]) -> Iterator[Row[Any]]:
    streaming = connection.execution_options(stream_results=True, max_row_buffer=_BATCH)
    with streaming.execute(_CHUNKS, parameters) as result:  # closes the cursor for a reader that stops halfway
        yield from result.yield_per(_BATCH)

"""Reading logs, decompressed line by line."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.db.models.history import NOT_MAPPED
from agentflow.runs.address import Place, resolve_address
from agentflow.runs.ids import find_run

_CHUNKS = text("""
SELECT vn.node_id, c.map_index, c.attempt, c.first_seq, c.lines, c.data
FROM log_chunk c JOIN run r ON r.id = c.run_id
JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = c.node_no
WHERE c.run_id = :run AND r.id = :run
  AND (CAST(:node AS text) IS NULL OR vn.node_id = :node) AND (CAST(:index AS int) IS NULL OR c.map_index = :index) AND (CAST(:attempt AS int) IS NULL OR c.attempt = :attempt)
  AND c.first_seq + c.lines > :after AND (CAST(:until AS int) IS NULL OR c.first_seq <= :until)
ORDER BY c.node_no, c.map_index, c.attempt, c.chunk_no
""")
_LAST = text("""
SELECT data FROM log_chunk
WHERE run_id = :run AND node_no = :node AND map_index = :index AND attempt = :attempt ORDER BY chunk_no DESC LIMIT 1
""")
_BATCH = 20  #: Chunks fetched at once: about a megabyte of text.


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
    if node is None:
        place = Place(find_run(connection, run_id, workspace=workspace), None)
    else:
        place = resolve_address(connection, run_id, node, workspace=workspace)
    index = None if place.map_index == NOT_MAPPED else place.map_index
    parameters = {"run": place.run_id, "node": place.node, "index": index, "attempt": attempt}
    parameters |= {"after": after, "until": until}
    following: dict[tuple[str, int, int], int] = {}  # only of the attempt at hand
    for row in _chunks(connection, parameters):
        stream_key = (row.node_id, row.map_index, row.attempt)
        expected = following.get(stream_key, row.first_seq if after else 1)
        following = {stream_key: row.first_seq + row.lines}
        lines = [json.loads(line) for line in zlib.decompress(row.data).splitlines()]
        if row.first_seq > expected and lines:
            missing = f"gap: lines {expected} to {row.first_seq - 1} are missing"
            lines.insert(0, [expected, lines[0][1], "system", "error", missing])
        for seq, at, stream, level, message in lines:
            if seq > after and (until is None or seq <= until):
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


def last_line(connection: Connection, run_id: uuid.UUID, node_no: int, map_index: int, attempt: int) -> str | None:
    """Text of the newest stored line of an attempt."""
    key = {"run": run_id, "node": node_no, "index": map_index, "attempt": attempt}
    data = connection.scalar(_LAST, key)
    lines = zlib.decompress(data).splitlines() if data is not None else []
    return str(json.loads(lines[-1])[4]) if lines else None

"""Reading attempts of a node run, and ranges of their logs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.clock import iso
from agentflow.cursors import big_int, read_cursor, write_cursor
from agentflow.errors import NotFound, UsageError
from agentflow.runs.address import Place, resolve_address
from agentflow.states import ATTEMPT_FINAL, AttemptState

CURSOR = "attempts"
_FEW = 64  #: Chunks read at once: a chunk holds up to 64 KiB of text.

#: The node's number as a value, so that attempts are found by their whole key, whatever the planner knows.
_ATTEMPTS = text("""
SELECT a.attempt, a.state, a.executor, a.scheduler_id, a.queued_at, a.started_at, a.finished_at, a.error,
  coalesce((SELECT max(c.first_seq + c.lines - 1) FROM log_chunk c
    WHERE c.run_id = :run AND c.node_no = a.node_no AND c.map_index = a.map_index AND c.attempt = a.attempt), 0)
    AS log_lines
FROM attempt a WHERE a.run_id = :run AND a.node_no = (
  SELECT vn.node_no FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node WHERE r.id = :run)
  AND a.map_index = :index AND a.attempt > :after
ORDER BY a.attempt LIMIT :limit
""")
_ATTEMPT = text("""
SELECT a.node_no, a.state,
  coalesce((SELECT sum(c.truncated_bytes) FROM log_chunk c WHERE c.run_id = :run AND c.node_no = a.node_no
    AND c.map_index = a.map_index AND c.attempt = a.attempt), 0)::bigint AS truncated_bytes
FROM attempt a WHERE a.run_id = :run AND a.node_no = (
  SELECT vn.node_no FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node WHERE r.id = :run)
  AND a.map_index = :index AND a.attempt = :attempt
""")
_CHUNKS = text("""
SELECT first_seq, lines, data FROM log_chunk
WHERE run_id = :run AND node_no = :no AND map_index = :index AND attempt = :attempt AND first_seq + lines > :after + 1
ORDER BY chunk_no LIMIT :few
""")


def list_attempts(
    connection: Connection,
    run_id: str,
    address: str,
    *,
    limit: int = 25,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the attempts of a node run, the first one first, and the cursor of the next page.

    Raises:
        NotFound: There is no such run or node.
        UsageError: Not the address of a node, or the cursor is not one of this list.
    """
    place = node_place(connection, run_id, address, workspace=workspace)
    after = 0 if cursor is None else min(read_cursor(CURSOR, cursor, big_int), 32767)
    parameters = {"run": place.run_id, "node": place.node, "index": place.map_index}
    rows = connection.execute(_ATTEMPTS, parameters | {"after": after, "limit": limit + 1}).all()
    following = write_cursor(CURSOR, rows[limit - 1].attempt) if len(rows) > limit else None
    return [_document(row) for row in rows[:limit]], following


def _document(row: Row[Any]) -> dict[str, Any]:
    return {
        "attempt": row.attempt,
        "state": row.state,
        "executor": row.executor,
        "scheduler_id": str(row.scheduler_id),
        "queued_at": iso(row.queued_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "error": row.error,
        "log_lines": row.log_lines,
    }


def node_place(connection: Connection, run_id: str, address: str, *, workspace: str) -> Place:
    """Where a node run is.

    Raises:
        NotFound: There is no such run or node.
        UsageError: It is not an address, or that of a whole sub-run.
    """
    place = resolve_address(connection, run_id, address, workspace=workspace)
    if place.node is None:
        raise UsageError(f"{address[:100]!r} is a sub-run, not a node.", hint=f"name one of its nodes: {address}.NODE")
    return place


def read_log_range(
    connection: Connection,
    run_id: str,
    address: str,
    attempt: int,
    *,
    after: int = 0,
    limit: int = 1000,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Lines of an attempt's log: `{items, next, truncated_bytes, gaps}` (SEMANTICS section 10).

    `next` is where to go on; null when the attempt has ended and nothing is left.

    Raises:
        NotFound: There is no such run, node or attempt.
        UsageError: Not the address of a node.
    """
    place = node_place(connection, run_id, address, workspace=workspace)
    key = {"run": place.run_id, "index": place.map_index, "attempt": attempt}
    found = connection.execute(_ATTEMPT, key | {"node": place.node}).one_or_none()
    if found is None:
        raise NotFound(f"{address[:100]} has no attempt {attempt}.")
    rows = connection.execute(_CHUNKS, key | {"no": found.node_no, "after": after, "few": _FEW}).all()
    items, gaps = read_chunks(rows, after=after, limit=limit)
    last = items[-1]["seq"] if items else after
    left = len(rows) == _FEW or (bool(rows) and rows[-1].first_seq + rows[-1].lines - 1 > last)
    ended = AttemptState(found.state) in ATTEMPT_FINAL
    return {
        "items": items,
        "next": None if ended and not left else last,
        "truncated_bytes": found.truncated_bytes,
        "gaps": gaps,
    }


def read_chunks(rows: Iterable[Any], *, after: int, limit: int) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Lines after a number, at most `limit`, and the ranges of numbers that are missing before the last of them."""
    items: list[dict[str, Any]] = []
    gaps: list[list[int]] = []
    expected = after + 1
    for row in rows:
        if len(items) >= limit:
            break
        if row.first_seq > expected:
            gaps.append([expected, row.first_seq - 1])
        expected = row.first_seq + row.lines
        for line in zlib.decompress(row.data).splitlines():
            seq, at, stream, level, message = json.loads(line)
            if after < seq and len(items) < limit:
                moment = iso(datetime.fromtimestamp(at, UTC))
                items.append({"seq": seq, "at": moment, "stream": stream, "level": level, "text": message})
    return items, gaps

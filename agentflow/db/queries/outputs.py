"""Outputs as they are stored: inline up to INLINE_MAX, else as a reference to an object; a mapped node's is a list."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

from agentflow.db.models.history import NOT_MAPPED

INLINE_MAX = 64 * 2**10  #: Bytes of an output that is kept in its row, and shown whole.
PREVIEW = 1000  #: Characters shown of a larger one.
PAGE = 50  #: Parts of a list that are read at once.


@dataclass(frozen=True, slots=True)
class Part:
    """The output of one node run."""

    map_index: int
    value: str | None  #: JSON text.
    ref: str | None  #: Name of the object that holds it instead. With neither it is null.


_PART = text("""
SELECT map_index, CAST(value AS text) AS value, ref FROM output
WHERE run_id = :run AND node_no = :node AND map_index = :map
""")
_PARTS = text("""
SELECT i.map_index, CASE WHEN i.state = 'success' THEN CAST(o.value AS text) END AS value,
  CASE WHEN i.state = 'success' THEN o.ref END AS ref
FROM node_run i LEFT JOIN output o ON o.run_id = i.run_id AND o.node_no = i.node_no AND o.map_index = i.map_index
  AND o.run_id = :run
WHERE i.run_id = :run AND i.node_no = :node AND i.map_index > :after
ORDER BY i.map_index LIMIT :limit
""")


def output_part(connection: Connection, run_id: uuid.UUID, node_no: int, map_index: int = NOT_MAPPED) -> Part | None:
    """The output of a node run; None without one."""
    row = connection.execute(_PART, {"run": run_id, "node": node_no, "map": map_index}).one_or_none()
    return None if row is None else Part(row.map_index, row.value, row.ref)


def output_parts(connection: Connection, run_id: uuid.UUID, node_no: int, *, after: int = NOT_MAPPED) -> list[Part]:
    """The next outputs of a mapped node's indexes, in order; those that did not succeed have none. Empty at the end."""
    rows = connection.execute(_PARTS, {"run": run_id, "node": node_no, "after": after, "limit": PAGE})
    return [Part(row.map_index, row.value, row.ref) for row in rows]

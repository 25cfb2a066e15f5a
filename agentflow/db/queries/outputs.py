"""Outputs as they are stored: inline up to INLINE_MAX, else as a reference to an object; a mapped node's is a list."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from agentflow.db.models.history import NOT_MAPPED

INLINE_MAX = 64 * 2**10  #: Bytes of an output that is kept in its row, and shown whole.
PREVIEW = 1000  #: Characters shown of a larger one.
PAGE = 500  #: Parts of a list that are read at once,
PAGE_BYTES = 4 * 2**20  #: but no more bytes than that after the first.


@dataclass(frozen=True, slots=True)
class Part:
    """The output of one node run."""

    map_index: int
    value: str | None  #: JSON text.
    ref: str | None  #: Name of the object that holds it instead. With neither it is null.


@dataclass(frozen=True, slots=True)
class FoundOutput:
    """Where an output is."""

    run_id: uuid.UUID
    node_no: int
    map_index: int
    is_list: bool  #: Of a mapped node: the outputs of its indexes.
    bytes: int
    finished_at: datetime | None  #: When its node run ended: a new output has a new time.
    ref: str | None = None  #: The object that holds it, if it is one.


_PART = text("""
SELECT map_index, CAST(value AS text) AS value, ref FROM output
WHERE run_id = :run AND node_no = :node AND map_index = :map
""")
_PARTS = text("""
SELECT p.map_index, CAST(o.value AS text) AS value, o.ref FROM (
  SELECT i.map_index, i.state, sum(CASE WHEN o.ref IS NULL THEN o.bytes ELSE 0 END) OVER (ORDER BY i.map_index)
    - coalesce(CASE WHEN o.ref IS NULL THEN o.bytes ELSE 0 END, 0) AS before
  FROM (SELECT * FROM node_run i WHERE i.run_id = :run AND i.node_no = :node AND i.map_index > :after
    ORDER BY i.map_index LIMIT :limit) AS i
  LEFT JOIN output o ON o.run_id = :run AND o.node_no = :node AND o.map_index = i.map_index
) AS p LEFT JOIN output o ON o.run_id = :run AND o.node_no = :node AND o.map_index = p.map_index AND p.state = 'success'
WHERE coalesce(p.before, 0) <= :bytes ORDER BY p.map_index
""")


def output_part(connection: Connection, run_id: uuid.UUID, node_no: int, map_index: int = NOT_MAPPED) -> Part | None:
    """The output of a node run; None without one."""
    row = connection.execute(_PART, {"run": run_id, "node": node_no, "map": map_index}).one_or_none()
    return None if row is None else Part(row.map_index, row.value, row.ref)


def output_parts(connection: Connection, run_id: uuid.UUID, node_no: int, *, after: int = NOT_MAPPED) -> list[Part]:
    """The next outputs of a mapped node's indexes, in order; those that did not succeed have none. Empty at the end."""
    rows = connection.execute(
        _PARTS, {"run": run_id, "node": node_no, "after": after, "limit": PAGE, "bytes": PAGE_BYTES}
    )
    return [Part(row.map_index, row.value, row.ref) for row in rows]

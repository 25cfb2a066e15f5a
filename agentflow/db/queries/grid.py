"""Columns of the run grid: a byte per node, its state. An ended run's is packed once, in its row (ENGINE 10)."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy import Connection, text

from agentflow.db.arrays import uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.locks import lock_runs
from agentflow.states import NodeRunState

#: By byte; 0 is for a node that the run's version does not have. Stored: only ever append.
CELLS = (
    None,
    NodeRunState.PENDING,
    NodeRunState.READY,
    NodeRunState.QUEUED,
    NodeRunState.RUNNING,
    NodeRunState.DEFERRED,
    NodeRunState.RETRYING,
    NodeRunState.SUCCESS,
    NodeRunState.FAILED,
    NodeRunState.SKIPPED,
    NodeRunState.UPSTREAM_FAILED,
    NodeRunState.CANCELLED,
)
_STATES = ", ".join(f"'{state}'" for state in CELLS[1:])

#: A run without node runs was cancelled before it started, or has not started.
_COLUMN = f"""
  SELECT decode(string_agg(lpad(to_hex(array_position(ARRAY[{_STATES}],
    coalesce(nr.state, CASE r.state WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END))), 2, '0'), ''
    ORDER BY vn.node_no), 'hex') AS grid
  FROM version_node vn
  LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = vn.node_no AND nr.map_index = {NOT_MAPPED}
  WHERE vn.version_id = r.version_id
"""
_READ = text(f"""
SELECT r.id, c.grid FROM run r CROSS JOIN LATERAL ({_COLUMN}) AS c WHERE r.id = ANY(CAST(:ids AS uuid[]))
""")
_PACK = text(f"""
UPDATE run SET grid = p.grid, state_counts = p.counts FROM (
  SELECT r.id, c.grid, (
    SELECT coalesce(json_object_agg(s.state, s.n), '{{}}')
    FROM (SELECT state, count(*) AS n FROM node_run WHERE run_id = r.id GROUP BY state) AS s) AS counts
  FROM run r CROSS JOIN LATERAL ({_COLUMN}) AS c
  WHERE r.id = ANY(CAST(:ids AS uuid[])) AND r.finished_at IS NOT NULL
) AS p WHERE run.id = p.id AND run.id = ANY(CAST(:ids AS uuid[]))
""")


def pack_columns(connection: Connection, runs: Collection[uuid.UUID]) -> None:
    """Keep the columns, and the node runs by state, of ended runs in their rows; locks them."""
    lock_runs(connection, runs)  # what is read below is then what stays
    connection.execute(_PACK, {"ids": uuids(sorted(runs))})


def read_columns(connection: Connection, runs: Collection[uuid.UUID]) -> dict[uuid.UUID, bytes]:
    """The columns of runs that are not packed: open ones, and those that ended a moment ago."""
    if not runs:
        return {}
    rows = connection.execute(_READ, {"ids": uuids(runs)})
    return {row.id: bytes(row.grid or b"") for row in rows}

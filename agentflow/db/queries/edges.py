"""Edges of stored versions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection

from agentflow.db.queries.attempts import LockedAttempt
from agentflow.db.statement import Statement

_DOWNSTREAM = Statement("""
SELECT vn.node_id, e.down_no FROM version_edge e
JOIN version_node vn ON vn.version_id = e.version_id AND vn.node_no = e.down_no
WHERE e.version_id = :version AND e.up_no = :node
""")


def not_chosen(
    connection: Connection, branches: Sequence[tuple[LockedAttempt, list[str]]]
) -> set[tuple[uuid.UUID, int]]:
    """Direct downstreams that these branch nodes left out: skipped whatever their rule (SEMANTICS section 1)."""
    left_out = set()
    for attempt, chosen in branches:
        run_id, node_no = attempt.key[:2]
        for row in _DOWNSTREAM.run(connection, {"version": attempt.version_id, "node": node_no}):
            if row.node_id not in chosen:
                left_out.add((run_id, row.down_no))
    return left_out

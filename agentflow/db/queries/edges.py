"""Edges of stored versions."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from agentflow.db.statement import Statement

_DOWNSTREAM = Statement("""
SELECT vn.node_id, e.down_no FROM version_edge e
JOIN version_node vn ON vn.version_id = e.version_id AND vn.node_no = e.down_no
WHERE e.version_id = :version AND e.up_no = :node
""")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a branch node chose among its direct downstreams."""

    run_id: uuid.UUID
    version_id: int
    node_no: int
    chosen: Collection[str]  #: Node ids.


def not_chosen(connection: Connection, choices: Sequence[Choice]) -> set[tuple[uuid.UUID, int]]:
    """Direct downstreams that these branch nodes left out: skipped whatever their rule (SEMANTICS section 1)."""
    left_out = set()
    for choice in choices:
        for row in _DOWNSTREAM.run(connection, {"version": choice.version_id, "node": choice.node_no}):
            if row.node_id not in choice.chosen:
                left_out.add((choice.run_id, row.down_no))
    return left_out

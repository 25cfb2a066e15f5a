"""Node runs of a run in pages, and one by its address."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.cursors import read_cursor, write_cursor
from agentflow.runs.attempts import node_place
from agentflow.runs.ids import find_run
from agentflow.runs.show import NodeKey, node_documents
from agentflow.states import NodeRunState

CURSOR = "node-runs"
_BEFORE_ALL = (-1, -1)

#: As `show` tells them: before a run starts it has none, and they are told from its version. Every node has one or more
#: of them, so without a filter no more nodes than the page has rows are looked at, and judged by the policies.
_KEYS = text("""
SELECT vn.node_no, coalesce(nr.map_index, -1) AS map_index, vn.mapped, vn.type
FROM run r CROSS JOIN LATERAL (
  SELECT node_no, mapped, type FROM version_node
  WHERE version_id = r.version_id AND node_no >= :no AND (CAST(:node AS text) IS NULL OR node_id = :node)
  ORDER BY node_no LIMIT CAST(:bound AS int)) AS vn
LEFT JOIN LATERAL (
  SELECT map_index, state FROM node_run
  WHERE run_id = :run AND node_no = vn.node_no AND map_index >= CASE vn.node_no WHEN :no THEN :index ELSE -1 END
  ORDER BY map_index LIMIT CAST(:bound AS int)) AS nr ON true
WHERE r.id = :run
  AND (CAST(:states AS text[]) IS NULL OR
    coalesce(nr.state, CASE r.state WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END) = ANY(CAST(:states AS text[])))
  AND (vn.node_no, coalesce(nr.map_index, -1)) > (:no, :index)
ORDER BY 1, 2 LIMIT :limit
""")
_NODE = text("""
SELECT vn.node_no, CAST(:index AS int) AS map_index, vn.mapped, vn.type
FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
WHERE r.id = :run
""")


def list_nodes(
    connection: Connection,
    run_id: str,
    *,
    node: str | None = None,
    states: Sequence[NodeRunState] = (),
    limit: int = 25,
    cursor: str | None = None,
    workspace: str = DEFAULT_WORKSPACE,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of a run's node runs in the order of the workflow, then by index; and the cursor of the next page.

    Args:
        connection: In a transaction.
        run_id: The run.
        node: Only this node, with its indexes.
        states: Only in one of these; none: in any.
        limit: At most so many.
        cursor: `next_cursor` of the page before.
        workspace: Whose run it is.

    Raises:
        NotFound: No such run.
        UsageError: The cursor is not one of this list.
    """
    run = find_run(connection, run_id, workspace=workspace)
    no, index = _BEFORE_ALL if cursor is None else json.loads(read_cursor(CURSOR, cursor, _key))
    rows = connection.execute(
        _KEYS,
        {
            "run": run,
            "node": node,
            "states": [state.value for state in states] or None,
            "no": no,
            "index": index,
            "limit": limit + 1,
            "bound": None if states else limit + 2,  # the first one may be told already
        },
    ).all()
    keys = [NodeKey(*row) for row in rows]
    following = write_cursor(CURSOR, json.dumps(keys[limit - 1][:2])) if len(keys) > limit else None
    return node_documents(connection, run, keys[:limit]), following


def show_node(
    connection: Connection, run_id: str, address: str, *, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """One node run.

    Raises:
        NotFound: There is no such run or node.
        UsageError: Not the address of a node.
    """
    place = node_place(connection, run_id, address, workspace=workspace)
    found = connection.execute(_NODE, {"run": place.run_id, "node": place.node, "index": place.map_index}).one()
    (document,) = node_documents(connection, place.run_id, [NodeKey(*found)])
    return document


def _key(text_form: str) -> str:
    """Check the text of a cursor's key.

    Raises:
        ValueError: It is not two small numbers.
    """
    found = json.loads(text_form)
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int and -1 <= n < 2**31 for n in found)):
        raise ValueError(text_form)
    return text_form

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
from agentflow.runs.show import NodeKeys, node_documents
from agentflow.states import NodeRunState

CURSOR = "node-runs"
_BEFORE_ALL = (-1, -1)

#: As `show` tells them: before a run starts it has none, and they are told from its version.
_KEYS = text("""
SELECT vn.node_no, coalesce(nr.map_index, -1) AS map_index
FROM run r JOIN version_node vn ON vn.version_id = r.version_id
LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = vn.node_no AND nr.run_id = :run
WHERE r.id = :run AND (CAST(:node AS text) IS NULL OR vn.node_id = :node)
  AND (CAST(:states AS text[]) IS NULL OR
    coalesce(nr.state, CASE r.state WHEN 'cancelled' THEN 'cancelled' ELSE 'pending' END) = ANY(CAST(:states AS text[])))
  AND (vn.node_no, coalesce(nr.map_index, -1)) > (:no, :index)
ORDER BY 1, 2 LIMIT :limit
""")
_NUMBER = text("""
SELECT vn.node_no FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
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
        },
    ).all()
    keys: NodeKeys = [(row.node_no, row.map_index) for row in rows]
    following = write_cursor(CURSOR, json.dumps(keys[limit - 1])) if len(keys) > limit else None
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
    number = connection.scalar(_NUMBER, {"run": place.run_id, "node": place.node})
    assert isinstance(number, int)
    (document,) = node_documents(connection, place.run_id, [(number, place.map_index)])
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

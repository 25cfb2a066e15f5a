"""Reading whole outputs, however large: in parts, from the database and the object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.outputs import FoundOutput, Part, output_part, output_parts
from agentflow.errors import NotFound, UsageError
from agentflow.runs.address import resolve_address
from agentflow.states import NodeRunState

T = TypeVar("T")


class Do(Protocol):
    """Runs a function of a connection in a short transaction of its own."""

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        """What it gives."""


class Objects(Protocol):
    """What is needed of an object store."""

    def get(self, name: str) -> bytes:
        """The content of an object."""


_FIND = text("""
SELECT vn.node_no, vn.mapped, nr.state, nr.finished_at, o.bytes, o.ref, m.bytes AS list_bytes
FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
LEFT JOIN node_run nr ON nr.run_id = r.id AND nr.node_no = vn.node_no AND nr.map_index = :map AND nr.run_id = :run
LEFT JOIN output o ON o.run_id = r.id AND o.node_no = vn.node_no AND o.map_index = :map AND o.run_id = :run
LEFT JOIN LATERAL (
  SELECT sum(CASE WHEN i.state = 'success' THEN coalesce(io.bytes, 4) ELSE 4 END + 1)::bigint + 1 AS bytes
  FROM node_run i LEFT JOIN output io ON io.run_id = i.run_id AND io.node_no = i.node_no
    AND io.map_index = i.map_index AND io.run_id = :run
  WHERE i.run_id = :run AND i.node_no = vn.node_no AND i.map_index >= 0
) AS m ON vn.mapped AND :map = -1
WHERE r.id = :run
""")


def find_output(connection: Connection, run_id: str, node: str, *, workspace: str = DEFAULT_WORKSPACE) -> FoundOutput:
    """Where the output of a node run is; `node` is its address.

    Raises:
        UsageError: It is not an address, or that of a sub-run.
        NotFound: There is no such run or node, or it has no output.
    """
    place = resolve_address(connection, run_id, node, workspace=workspace)
    if place.node is None:
        raise UsageError(f"{node} is a sub-run, not a node.", hint=f"name one of its nodes: {node}.NODE")
    row = connection.execute(_FIND, {"run": place.run_id, "node": place.node, "map": place.map_index}).one()
    is_list = row.mapped and place.map_index == NOT_MAPPED
    size = row.list_bytes if is_list else row.bytes
    state = row.state or NodeRunState.PENDING
    if state != NodeRunState.SUCCESS or size is None:
        raise NotFound(f"{node} has no output: it is {state}.", hint=f"`agentflow runs show {run_id}` tells more")
    return FoundOutput(place.run_id, row.node_no, place.map_index, is_list, size, row.finished_at, row.ref)


def stream_output(do: Do, objects: Objects, found: FoundOutput) -> Iterator[bytes]:
    """The JSON text of an output in pieces, none larger than one node run's; each is read in its own transaction.

    Raises:
        NotFound: It was cleared or deleted meanwhile.
        ObjectMissing, ObjectStoreUnreachable: From the object store.
    """
    if not found.is_list:
        part = do(partial(output_part, run_id=found.run_id, node_no=found.node_no, map_index=found.map_index))
        if part is None:
            raise NotFound("The output is gone: its node was cleared, or its run deleted.")
        yield _content(part, objects)
        return
    after, opening = NOT_MAPPED, b"["
    while parts := do(partial(output_parts, run_id=found.run_id, node_no=found.node_no, after=after)):
        for part in parts:
            yield opening
            yield _content(part, objects)
            opening = b","
        after = parts[-1].map_index
    yield b"]" if opening == b"," else b"[]"


def _content(part: Part, objects: Objects) -> bytes:
    if part.ref is not None:
        return objects.get(part.ref)
    return b"null" if part.value is None else part.value.encode()

"""Addresses: how people and programs name one node run, however deep it lies (SEMANTICS section 10).

`fetch` is a node, `fetch[3]` an index of a mapped node, `loop.sub[2]` the sub-run that a `workflow` node made third,
`loop.sub[2].fetch[3]` a node run within that. Sub-runs are numbered per node run from 0, rounds and retries alike, and
a number is never used twice.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.models.history import NOT_MAPPED
from agentflow.errors import NotFound, UsageError
from agentflow.runs.ids import find_run, no_run

MAX_LENGTH = 4000  #: Characters.
_STEP = re.compile(
    r"(?P<node>[A-Za-z_][A-Za-z0-9_-]{0,99})(?:\[(?P<index>\d{1,9})\])?(?:\.sub\[(?P<sub>\d{1,9})\])?(?:\.|$)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Step:
    """One level: a node, perhaps an index of it, perhaps one of its sub-runs."""

    node: str
    index: int | None = None
    sub: int | None = None

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        return f"{self.node}{index}" + ("" if self.sub is None else f".sub[{self.sub}]")


def parse_address(address: str) -> tuple[Step, ...]:
    """Read an address; every step but the last names a sub-run.

    Raises:
        UsageError: It is not one.
    """
    steps: list[Step] = []
    position = 0
    while position < len(address) <= MAX_LENGTH and (found := _STEP.match(address, position)):
        index, sub = (None if found[name] is None else int(found[name]) for name in ("index", "sub"))
        steps.append(Step(found["node"], index, sub))
        position = found.end()
        if sub is None:
            break
    if not steps or position != len(address) or address.endswith("."):
        raise UsageError(
            f"{address[:100]!r} is not an address.", hint="examples: fetch, fetch[3], loop.sub[2], loop.sub[2].fetch[3]"
        )
    return tuple(steps)


def format_address(steps: Sequence[Step]) -> str:
    """The text that `parse_address` reads."""
    return ".".join(str(step) for step in steps)


@dataclass(frozen=True, slots=True)
class Place:
    """What an address leads to."""

    run_id: uuid.UUID  #: The run that holds it; of a sub-run the sub-run itself.
    node: str | None  #: None: the sub-run as a whole.
    map_index: int = NOT_MAPPED

    def holds(self, row: Any) -> bool:
        """Whether a node run, by its `node_id` and `map_index`, is meant: a mapped node has its indexes with it."""
        return self.node in (None, row.node_id) and self.map_index in (NOT_MAPPED, row.map_index)


_SUB_RUN = text("""
SELECT s.id FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = :node
JOIN run s ON s.parent_run_id = :run AND s.parent_node_no = vn.node_no AND s.parent_map_index = :index
  AND s.parent_seq = :sub
WHERE r.id = :run
""")
_NODE = text("""
SELECT EXISTS (SELECT FROM version_node vn WHERE vn.version_id = r.version_id AND vn.node_id = :node) AS node,
  EXISTS (SELECT FROM node_run nr WHERE nr.run_id = :run AND nr.map_index = :index AND nr.node_no =
    (SELECT vn.node_no FROM version_node vn WHERE vn.version_id = r.version_id AND vn.node_id = :node)) AS there
FROM run r WHERE r.id = :run
""")


def resolve_address(connection: Connection, run_id: str, address: str, *, workspace: str = DEFAULT_WORKSPACE) -> Place:
    """Find what an address within a run leads to.

    Raises:
        UsageError: It is not an address.
        NotFound: There is no such run, node, index or sub-run.
    """
    run = find_run(connection, run_id, workspace=workspace)
    steps = parse_address(address)
    for number, step in enumerate(steps):
        index = NOT_MAPPED if step.index is None else step.index
        key = {"run": run, "node": step.node, "index": index}
        found = connection.execute(_NODE, key).one_or_none()
        if found is None:
            raise no_run(run_id)
        if not found.node or (step.index is not None and not found.there):
            what = (
                f"node {step.node!r}"
                if step.index is None or not found.node
                else f"index {step.index} of {step.node!r}"
            )
            raise NotFound(f"There is no {what} in the run {run}.", hint=f"`agentflow runs show {run}` lists its nodes")
        if step.sub is None:
            return Place(run, step.node, index)
        child = connection.scalar(_SUB_RUN, key | {"sub": step.sub})
        if child is None:
            hint = f"`agentflow runs show {run}` lists its sub-runs"
            raise NotFound(f"There is no sub-run {format_address(steps[: number + 1])} in the run {run_id}.", hint=hint)
        run = child
    return Place(run, None)


def localise(
    connection: Connection, run_id: str, addresses: Sequence[str], *, workspace: str = DEFAULT_WORKSPACE
) -> tuple[str, list[str]]:
    """The run that these addresses lead into, the run itself or a sub-run, and the addresses as that run sees them.

    Raises:
        UsageError: One is not an address or names a whole sub-run, or they lead into different runs.
        NotFound: There is no such run, node, index or sub-run.
    """
    into: dict[str, list[str]] = {}
    for address in addresses:
        steps = parse_address(address)
        if steps[-1].sub is not None:
            hint = f"name its nodes, as in {address}.fetch, or give the id that `agentflow runs show` lists for it"
            raise UsageError(f"{address!r} is a sub-run, a run of its own.", hint=hint)
        run = run_id
        if len(steps) > 1:
            run = str(resolve_address(connection, run_id, format_address(steps[:-1]), workspace=workspace).run_id)
        into.setdefault(run, []).append(str(steps[-1]))
    if len(into) > 1:
        raise UsageError("These addresses lead into different runs.", hint="name the nodes of one run at a time")
    return next(iter(into.items()), (run_id, []))

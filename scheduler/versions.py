"""Versions as the scheduler needs them in memory: immutable, so cached for as long as they fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from agentflow.db.arrays import ints
from agentflow.db.statement import Statement
from agentflow.nodes import registry
from agentflow.spec import NodePolicy, WorkflowSpec, node_policy

MAX_NODES = 200_000  #: Nodes over all cached versions.

_LOAD = Statement("""
SELECT v.id, w.name AS workflow, w.workspace_id, ws.name AS workspace, v.version, v.spec, v.bundle_hash
FROM unnest(CAST(:ids AS bigint[])) AS k(id) JOIN workflow_version v ON v.id = k.id
JOIN workflow w ON w.id = v.workflow_id JOIN workspace ws ON ws.id = w.workspace_id
""")


@dataclass(slots=True)
class LoadedVersion:
    """A stored version; policies of nodes are worked out when first asked for."""

    id: int
    workspace_id: int
    workspace: str
    workflow: str
    version: int
    bundle_hash: str | None
    spec: WorkflowSpec
    node_ids: list[str]
    numbers: dict[str, int]
    _policies: dict[int, NodePolicy] = field(default_factory=dict)
    _connections: dict[int, list[str]] = field(default_factory=dict)

    def policy(self, node_no: int) -> NodePolicy:
        """Policy of a node by number."""
        found = self._policies.get(node_no)
        if found is None:
            found = self._policies[node_no] = node_policy(self.spec, self.node_ids[node_no])
        return found

    def connections(self, node_no: int) -> list[str]:
        """Names of the connections that a node uses."""
        found = self._connections.get(node_no)
        if found is None:
            found = self._connections[node_no] = registry.connections(self.type_of(node_no), self.config(node_no))
        return found

    def is_mapped(self, node_no: int) -> bool:
        """Whether a node has a `for_each`."""
        return self.spec.nodes[self.node_ids[node_no]].for_each is not None

    def type_of(self, node_no: int) -> str:
        """Node type of a node by number."""
        return self.spec.nodes[self.node_ids[node_no]].type

    def config(self, node_no: int) -> dict[str, Any]:
        """Raw config of a node by number."""
        return self.spec.nodes[self.node_ids[node_no]].config


class VersionCache:
    """Least recently used versions, bounded by their nodes. For one thread."""

    def __init__(self, max_nodes: int = MAX_NODES) -> None:
        self._max_nodes = max_nodes
        self._nodes = 0
        self._versions: OrderedDict[int, LoadedVersion] = OrderedDict()

    def get(self, connection: Connection, version_id: int) -> LoadedVersion:
        """A version by id, read from the database the first time."""
        return self.get_all(connection, [version_id])[version_id]

    def get_all(self, connection: Connection, version_ids: Iterable[int]) -> dict[int, LoadedVersion]:
        """Versions by id; those that are not here yet are read in one statement."""
        wanted = set(version_ids)
        found = {each: self._versions[each] for each in wanted if each in self._versions}
        if len(found) < len(wanted):
            for row in _LOAD.run(connection, {"ids": ints(wanted - found.keys())}):
                version = found[row.id] = _loaded(row)
                self._versions[row.id] = version
                self._nodes += len(version.node_ids)
        for each in found:
            self._versions.move_to_end(each)
        while self._nodes > self._max_nodes and len(self._versions) > 1:
            _, dropped = self._versions.popitem(last=False)
            self._nodes -= len(dropped.node_ids)
        return found


def _loaded(row: Any) -> LoadedVersion:
    # It was checked when it was applied; here only its shape is read, so that an older spec keeps running.
    spec = WorkflowSpec.model_validate(row.spec)
    node_ids = list(spec.nodes)
    return LoadedVersion(
        id=row.id,
        workspace_id=row.workspace_id,
        workspace=row.workspace,
        workflow=row.workflow,
        version=row.version,
        bundle_hash=row.bundle_hash,
        spec=spec,
        node_ids=node_ids,
        numbers={node_id: no for no, node_id in enumerate(node_ids)},
    )

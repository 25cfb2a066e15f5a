"""The graph of a version in tables: once per version, never per run (ENGINE 1)."""

from __future__ import annotations

import difflib

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from agentflow.db.arrays import ints
from agentflow.db.models import DispatchGroup, Pool, VersionEdge, VersionNode, Workflow
from agentflow.errors import Conflict, NotFound
from agentflow.graph import compile_graph
from agentflow.nodes import registry
from agentflow.spec import NodePolicy, WorkflowSpec, node_policy

BRANCH = "branch"  #: The node type whose output chooses among its direct downstreams.
SUB_RUN = "workflow"  #: The node type that runs another workflow.
WAIT = "wait"  #: The node type whose times and runs the scheduler waits for.
_ROWS = 5000  #: Rows of one INSERT: bounds the statement's size.


def store_graph(connection: Connection, workflow: int, version_id: int, spec: WorkflowSpec) -> None:
    """Write nodes and edges of a new version.

    Raises:
        NotFound: A pool does not exist.
        Conflict: A node asks for more slots than its pool has.
    """
    graph = compile_graph(spec)
    policies = {node.id: node_policy(spec, node.id) for node in graph.nodes}
    keys = {node.id: _group_key(spec.nodes[node.id].type, policies[node.id]) for node in graph.nodes}
    groups = _groups(connection, workflow, policies, set(keys.values()))
    nodes = [
        {
            "version_id": version_id,
            "node_no": node.node_no,
            "node_id": node.id,
            "type": spec.nodes[node.id].type,
            "trigger_rule": policy.trigger_rule,
            "gated": policy.for_each is not None or _is_gated(spec.nodes[node.id].type, policy),
            "mapped": policy.for_each is not None,
            "index_gated": policy.for_each is not None and _is_gated(spec.nodes[node.id].type, policy),
            "max_parallel": policy.max_parallel,
            "is_leaf": node.is_leaf,
            "below_branch": any(spec.nodes[up].type == BRANCH for up in spec.nodes[node.id].needs),
            "n_up": node.n_up,
            "group_id": groups[keys[node.id]],
            "priority": policy.priority,
            "pool_slots": policy.pool_slots,
            "retries": policy.retries,
            "retry_delay": policy.retry_delay,
            "retry_backoff": policy.retry_backoff,
            "retry_max_delay": policy.retry_max_delay,
            "retry_jitter": policy.retry_jitter,
            "retry_on": policy.retry_on,
            "fail_on": policy.fail_on,
        }
        for node in graph.nodes
        for policy in (policies[node.id],)
    ]
    for start in range(0, len(nodes), _ROWS):
        connection.execute(insert(VersionNode), nodes[start : start + _ROWS])
    edges = [{"version_id": version_id, "up_no": up, "down_no": down} for up, down in graph.edges]
    for start in range(0, len(edges), _ROWS):
        connection.execute(insert(VersionEdge), edges[start : start + _ROWS])


def _is_gated(node_type: str, policy: NodePolicy) -> bool:
    """Whether the evaluator speaks before it is ready."""
    return policy.when not in (None, True) or node_type in (BRANCH, SUB_RUN, WAIT)


GroupKey = tuple[str, str, str, bool]


def _group_key(node_type: str, policy: NodePolicy) -> GroupKey:
    io = registry.shares_process(node_type, memory=policy.memory)
    return (policy.pool, policy.executor or "", policy.queue, io)


def _groups(
    connection: Connection, workflow: int, policies: dict[str, NodePolicy], keys: set[GroupKey]
) -> dict[GroupKey, int]:
    pools = _pools(connection, workflow, policies)
    found = {}
    for key in keys:
        pool, executor, queue, io = key
        values = {"workflow_id": workflow, "pool_id": pools[pool], "executor": executor, "queue": queue, "io": io}
        values["backfill"] = False
        connection.execute(insert(DispatchGroup).values(**values, reserved_for=None).on_conflict_do_nothing())
        found[key] = connection.scalars(
            select(DispatchGroup.id).filter_by(**values).where(DispatchGroup.reserved_for.is_(None))
        ).one()
    return found


def _pools(connection: Connection, workflow: int, policies: dict[str, NodePolicy]) -> dict[str, int]:
    rows = connection.execute(
        select(Pool.name, Pool.id, Pool.slots)
        .join(Workflow, Workflow.workspace_id == Pool.workspace_id)
        .where(Workflow.id == workflow)
    )
    found = {row.name: row for row in rows}
    known = {name: row.id for name, row in found.items()}
    for node, policy in policies.items():
        if policy.pool not in known:
            close = difflib.get_close_matches(policy.pool, known, n=1)
            meant = f"did you mean `{close[0]}`? Else create it" if close else "create it"
            raise NotFound(
                f"nodes.{node}.pool: there is no pool {policy.pool!r}.",
                hint=f"{meant}: agentflow pools set {policy.pool} SLOTS",
            )
        slots = found[policy.pool].slots
        if 0 < slots < policy.pool_slots:  # a pool of 0 slots is shut for a while
            raise Conflict(
                f"nodes.{node}.pool_slots: {policy.pool_slots} slots, but the pool {policy.pool!r} has {slots}.",
                hint=f"ask for less, or enlarge it: agentflow pools set {policy.pool} {policy.pool_slots}",
            )
    return known


_RESERVE = text("""
INSERT INTO dispatch_group (workflow_id, pool_id, executor, queue, io, reserved_for)
SELECT DISTINCT g.workflow_id, g.pool_id, g.executor, g.queue, g.io, CAST(:scheduler AS uuid)
FROM dispatch_group g JOIN version_node vn ON vn.group_id = g.id
WHERE vn.version_id = ANY(CAST(:versions AS bigint[]))
ON CONFLICT DO NOTHING
""")
_OF_BACKFILLS = text("""
INSERT INTO dispatch_group (workflow_id, pool_id, executor, queue, io, backfill)
SELECT DISTINCT g.workflow_id, g.pool_id, g.executor, g.queue, g.io, true
FROM version_node vn JOIN dispatch_group g ON g.id = vn.group_id WHERE vn.version_id = :version
ON CONFLICT DO NOTHING
""")


def reserve_groups(connection: Connection, version_id: int, scheduler_id: object) -> None:
    """Make the groups of a version for one scheduler alone (`run FILE`)."""
    connection.execute(_RESERVE, {"versions": ints([version_id]), "scheduler": scheduler_id})


def make_backfill_groups(connection: Connection, version_id: int) -> None:
    """Make the groups for runs of a version that backfills make: their nodes share slots with all others (ENGINE 4)."""
    connection.execute(_OF_BACKFILLS, {"version": version_id})

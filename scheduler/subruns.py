"""Sub-runs: the run that a `workflow` node starts, and what tells its parent that it has ended."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.graph import make_backfill_groups, reserve_groups
from agentflow.db.notify import notify_ready
from agentflow.db.queries.attempts import token_hash
from agentflow.db.queries.books import Event
from agentflow.db.queries.gates import SUB_RUN, Child, DueGate
from agentflow.db.queries.locks import lock_runs
from agentflow.db.queries.settle import Settlement
from agentflow.errors import AgentFlowError, NotFound
from agentflow.ids import uuid7
from agentflow.runs.cancel import stop_runs
from agentflow.spec import check_params
from agentflow.states import NodeRunState, TriggeredBy
from scheduler.ends import EndedRun
from scheduler.versions import LoadedVersion
from scheduler.waits import waiters_of

MAX_DEPTH = 20  #: Sub-runs within sub-runs.


class RecursionLimit(AgentFlowError):
    """Sub-runs are nested too deeply: most likely a workflow that runs itself."""

    word = "recursion-limit"


#: The file's own first, then published ones; a file run by itself also finds what other `run FILE`s have stored.
_FIND = text("""
SELECT w.id, v.id AS version_id, v.spec -> 'params' AS params
FROM workflow w JOIN workflow_version v ON v.workflow_id = w.id
WHERE w.workspace_id = :workspace AND w.name = :name AND (w.source <> 'adhoc' OR :hidden)
  AND (CAST(:version AS int) IS NULL OR v.version = :version)
  AND (CAST(:version AS int) IS NOT NULL OR v.id = w.published_version_id OR v.id = CAST(:sibling AS bigint))
ORDER BY v.id = CAST(:sibling AS bigint) DESC NULLS LAST, w.source = 'adhoc', v.version DESC LIMIT 1
""")
_PARENT = text("SELECT hidden, sub_depth FROM run WHERE id = :run")
_CHAIN = text("""
WITH RECURSIVE up AS (
  SELECT id, parent_run_id, workflow_id, 0 AS level FROM run WHERE id = :run
  UNION ALL SELECT r.id, r.parent_run_id, r.workflow_id, up.level + 1 FROM up JOIN run r ON r.id = up.parent_run_id
)
SELECT w.name FROM up JOIN workflow w ON w.id = up.workflow_id ORDER BY up.level DESC
""")


def resolve_child(
    connection: Connection,
    run_id: uuid.UUID,
    version: LoadedVersion,
    node_no: int,
    params: Any,
    number: int,
    *,
    siblings: Mapping[str, tuple[int, int]],
) -> Child:
    """The run that a `workflow` node is to start.

    Args:
        connection: In a transaction.
        run_id: The node's run.
        version: The version of that run.
        node_no: The node.
        params: What its templates gave.
        number: Round, from 0.
        siblings: Workflows that come before published ones of their name: the other ones of a file that runs by itself.

    Raises:
        NotFound: There is no such workflow or version.
        ParamError: The params do not fit that workflow.
        RecursionLimit: Too many sub-runs are around it.
    """
    config = version.config(node_no)
    name, wanted = config["name"], config.get("version")
    parent = connection.execute(_PARENT, {"run": run_id}).one()
    if parent.sub_depth >= MAX_DEPTH:
        chain = list(connection.scalars(_CHAIN, {"run": run_id}))
        shown = " -> ".join([*chain[-3:], name])
        raise RecursionLimit(
            f"sub-runs are nested {MAX_DEPTH} deep: … -> {shown}",
            hint="a workflow that runs itself needs a `when` that ends it",
        )
    found = connection.execute(
        _FIND,
        {
            "workspace": version.workspace_id,
            "name": name,
            "version": wanted,
            "hidden": parent.hidden,
            "sibling": siblings[name][1] if name in siblings and wanted is None else None,
        },
    ).one_or_none()
    if found is None:
        what = f"no workflow {name!r}" if wanted is None else f"no version {wanted} of a workflow {name!r}"
        raise NotFound(f"there is {what}", hint="apply its file, or correct the name")
    checked = check_params(found.params or {}, params or {})
    return Child(found.id, found.version_id, checked, number, version.policy(node_no).timeout)


_BEGIN = text("""
WITH a AS (
  INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at,
    started_at)
  VALUES (:run, :node, :map, :attempt, 'deferred', :hash, '', :nobody, :now, :now)
)
UPDATE node_run SET attempt = :attempt, queued_at = :now, started_at = :now
WHERE run_id = :run AND node_no = :node AND map_index = :map
""")
_NOBODY = uuid.UUID(int=0)


def begin_attempt(connection: Connection, gate: DueGate, now: Any) -> None:
    """Open the node's next attempt; no executor and no scheduler holds it while its sub-run is under way."""
    connection.execute(
        _BEGIN,
        {
            "run": gate.run_id,
            "node": gate.node_no,
            "map": gate.map_index,
            "attempt": gate.attempt + 1,
            "hash": token_hash(secrets.token_hex(16)),
            "nobody": _NOBODY,
            "now": now,
        },
    )


#: Numbered after the node's earlier sub-runs, of whatever attempt: an address never means two runs.
_INSERT = text("""
INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor, request_id, hidden, reserved_for,
  chain_depth, backfill_id, sub_depth, parent_run_id, parent_node_no, parent_map_index, parent_seq, created_at)
SELECT :id, p.workspace_id, w.id, :version, 'queued', :triggered_by, CAST(:params AS json), p.actor, p.request_id, p.hidden,
  p.reserved_for, p.chain_depth, p.backfill_id, p.sub_depth + 1, p.id, :node, :map,
  (SELECT count(*) FROM run s WHERE s.parent_run_id = p.id AND s.parent_node_no = :node AND s.parent_map_index = :map),
  :now
FROM run p, workflow w WHERE p.id = :parent AND w.id = :workflow FOR KEY SHARE OF w
RETURNING reserved_for, backfill_id
""")
#: It comes up when the sub-run has ended, or its attempt's time is up.
_WAIT_FOR = text("""
UPDATE node_run SET resume_key = :key, resume_state = json_build_object('run', CAST(:child AS text), 'round', :round),
  resume_at = started_at + make_interval(secs => CAST(:timeout AS float8))
WHERE run_id = :run AND node_no = :node AND map_index = :map
""")


def start_child(connection: Connection, gate: DueGate, child: Child, settlement: Settlement) -> uuid.UUID | None:
    """Queue the sub-run of a node that is deferred for it; the caller holds the run's lock.

    Returns:
        Its id; None when the workflow was deleted a moment ago: the node then comes up again and fails.
    """
    run_id = uuid7(settlement.now)
    key = {"run": gate.run_id, "node": gate.node_no, "map": gate.map_index}
    made = connection.execute(
        _INSERT,
        {
            "id": run_id,
            "parent": gate.run_id,
            "node": gate.node_no,
            "map": gate.map_index,
            "workflow": child.workflow_id,
            "version": child.version_id,
            "triggered_by": TriggeredBy.SUBRUN.value,
            "params": json.dumps(child.params, ensure_ascii=False),
            "now": settlement.now,
        },
    ).one_or_none()
    waits = {"key": SUB_RUN, "child": str(run_id), "round": child.round, "timeout": child.timeout}
    connection.execute(_WAIT_FOR, key | waits)
    detail = {"sub_run": str(run_id), "round": child.round}
    settlement.record(Event(gate.run_id, "node", gate.node_no, gate.map_index, None, NodeRunState.DEFERRED, detail))
    if made is None:
        connection.execute(_RESUME, key | {"key": SUB_RUN, "child": str(run_id)})
        return None
    if made.reserved_for is not None:
        reserve_groups(connection, child.version_id, made.reserved_for)
    if made.backfill_id is not None:
        make_backfill_groups(connection, child.version_id)
    return run_id


def stop_child(connection: Connection, run_id: uuid.UUID) -> bool:
    """Cancel a sub-run that takes too long; false when it has just ended by itself."""
    run = lock_runs(connection, [run_id]).get(run_id)
    if run is None or run.is_final:
        return False
    if not run.cancel_requested:
        stop_runs(connection, [run], timed_out=False)
    return True


_RESUME = text("""
UPDATE node_run SET resume_at = clock_timestamp()
WHERE run_id = :run AND node_no = :node AND map_index = :map AND state = 'deferred' AND resume_key = :key
  AND resume_state ->> 'run' = :child
""")


class TellParent:
    """Makes a `workflow` node due when its sub-run has ended. A node that was cleared or cancelled does not care."""

    def wants(self, connection: Connection, ended: Sequence[EndedRun]) -> Collection[uuid.UUID]:
        """The sub-runs among them."""
        del connection
        return [run.id for run in ended if run.parent_run_id is not None]

    def handle(self, connection: Connection, run: EndedRun) -> None:
        """Wake the parent's node."""
        assert run.parent_run_id is not None
        # With those that TellWaiters locks next: one by one they would be out of order.
        lock_runs(connection, {run.parent_run_id, *waiters_of(connection, run)})
        key = {"run": run.parent_run_id, "node": run.parent_node_no, "map": run.parent_map_index}
        connection.execute(_RESUME, key | {"key": SUB_RUN, "child": str(run.id)})
        notify_ready(connection)

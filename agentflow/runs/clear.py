"""Clearing: node runs go back to the beginning and run again (SEMANTICS section 10, docs/handling.md)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE, find_workflow
from agentflow.db.arrays import ints
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import LockedRun, database_now, lock_runs
from agentflow.db.queries.mapped import reopen_indexes
from agentflow.db.queries.recount import recount_run
from agentflow.db.queries.settle import Settlement
from agentflow.errors import Conflict
from agentflow.runs.address import localise
from agentflow.runs.cancel import stop_runs
from agentflow.runs.ids import find_run, no_run
from agentflow.runs.repin import repin_to_newest
from agentflow.runs.selection import NodeRunRow, Selection, lock_rows, select
from agentflow.states import NodeRunState, RunState

SHOWN = 1000  #: Addresses kept in the audit log.

#: A mapped node is expanded again, from its list as it is then.
_RESET = text("""
WITH o AS (
  DELETE FROM output WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[]))
), a AS (
  UPDATE attempt SET state = 'cancelled', finished_at = :now
  WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[])) AND finished_at IS NULL
), i AS (
  DELETE FROM node_run WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[])) AND map_index >= 0
  RETURNING 1
), n AS (
  UPDATE node_run SET state = 'pending', finished_at = NULL, started_at = NULL, queued_at = NULL, ready_at = NULL,
    resume_at = NULL, resume_key = NULL, resume_state = NULL, failures = 0, losses = 0, error = NULL,
    map_open = 0, map_success = 0, map_failed = 0
  WHERE run_id = :run AND node_no = ANY(CAST(:nodes AS int[])) AND map_index = -1
)
UPDATE run SET total_nodes = total_nodes - (SELECT count(*) FROM i) WHERE id = :run
""")
REOPEN = text("""
UPDATE run SET state = 'running', finished_at = NULL, cancel_requested_at = NULL, timed_out = false,
  grid = NULL, state_counts = NULL,
  timeout_at = CASE WHEN v.timeout IS NOT NULL THEN CAST(:now AS timestamptz) + make_interval(secs => v.timeout) END
FROM workflow_version v WHERE run.id = :run AND v.id = run.version_id
""")
_SUB_RUNS = text("""
SELECT id, parent_node_no, parent_map_index FROM run
WHERE parent_run_id = :run AND parent_run_id IS NOT NULL AND state IN ('queued', 'running')
""")


def clear_run(
    connection: Connection,
    run_id: str,
    *,
    nodes: Sequence[str] | None = None,
    upstream: bool = False,
    downstream: bool = False,
    only_failed: bool = False,
    newest_version: bool = False,
    dry_run: bool = False,
    force: bool = False,
    actor: str,
    workspace: str = DEFAULT_WORKSPACE,
) -> dict[str, Any]:
    """Run nodes again (default: all). An ended run is open again afterwards.

    Args:
        connection: The caller's transaction.
        run_id: The run.
        nodes: Addresses: `fetch`, or `fetch[3]` for one index of a mapped node; `loop.sub[2].fetch` clears in that sub-run.
        upstream: And everything before these nodes.
        downstream: And everything after these nodes.
        only_failed: Only what failed, was cancelled or kept from running; of mapped nodes only those indexes.
        newest_version: The run goes over to the newest version of its workflow, if that has the same graph.
        dry_run: Change nothing.
        force: Stop what is under way: its attempts count no more from now on, and their processes are killed. The next
            attempt may begin before they are gone.
        actor: Who asks.
        workspace: Whose run it is.

    Returns:
        `{id, changed, cleared: [addresses], nodes: [{run, node, map_index, state}]}`, states from before.

    Raises:
        NotFound: No such run or node.
        UsageError: A text is not the address of a node run, or they lead into different runs.
        Conflict: Something selected is under way, the run is being stopped or has not started, or the newest version
            has another graph.
    """
    if nodes is not None:
        run_id, nodes = localise(connection, run_id, nodes, workspace=workspace)
    key = find_run(connection, run_id, workspace=workspace)
    runs = lock_runs(connection, [key])
    if key not in runs:
        raise no_run(run_id)
    run = runs[key]
    _refuse_unfit(run, run_id)
    rows = lock_rows(connection, key)
    selection = select(connection, run, rows, nodes, upstream=upstream, downstream=downstream, only_failed=only_failed)
    chosen = [row for row in rows if selection.holds(row)]
    preview = [_preview(run_id, row) for row in chosen]
    cleared = [row.address for row in chosen if row.node_no not in selection.nodes or row.map_index == NOT_MAPPED]
    if dry_run or not selection:
        return {"id": run_id, "changed": False, "cleared": cleared, "nodes": preview}
    busy = [row.address for row in chosen if row.busy]
    if busy and not force:
        raise Conflict(f"These are under way: {', '.join(busy[:10])}.", hint="wait for them, or stop them with --force")
    if newest_version:
        repin_to_newest(connection, run)
    stop_sub_runs(connection, key, [row for row in chosen if row.busy])
    _reset(connection, runs, key, selection)
    forced = {"forced": busy[:SHOWN]} if busy else {}
    audit(connection, run.workspace_id, actor, "run.cleared", run_id, nodes=cleared[:SHOWN], **forced)
    return {"id": run_id, "changed": True, "cleared": cleared, "nodes": preview}


def _preview(run_id: str, row: NodeRunRow) -> dict[str, Any]:
    index = None if row.map_index == NOT_MAPPED else row.map_index
    return {"run": run_id, "node": row.node_id, "map_index": index, "state": row.state.value}


def _refuse_unfit(run: LockedRun, run_id: str) -> None:
    if run.state is RunState.QUEUED:
        raise Conflict(f"The run {run_id} has not started.", hint="there is nothing to run again yet")
    if run.stopping and not run.is_final:
        raise Conflict(f"The run {run_id} is being stopped.", hint="clear it once it has ended")


def _reset(connection: Connection, runs: dict[uuid.UUID, LockedRun], key: uuid.UUID, selection: Selection) -> None:
    now = database_now(connection)
    run = runs[key]
    settlement = Settlement(connection, runs, now)
    nodes = ints(sorted(selection.nodes))
    connection.execute(_RESET, {"run": key, "nodes": nodes, "now": now})
    ready, due = reopen_indexes(connection, key, sorted(selection.indexes), now)
    settlement.made_ready += ready
    settlement.made_due += due
    reopen(connection, settlement, run)
    for no in sorted(selection.nodes):
        settlement.record(Event(key, "cleared", no, NOT_MAPPED, None, NodeRunState.PENDING))
    for no, index in sorted(selection.indexes):
        settlement.record(Event(key, "cleared", no, index, None, NodeRunState.PENDING))
    recount_run(connection, settlement, key)
    settlement.write(wake=True)


def reopen(connection: Connection, settlement: Settlement, run: LockedRun) -> None:
    """Let an ended run go on; its timeout begins anew."""
    if not run.is_final:
        return
    connection.execute(REOPEN, {"run": run.id, "now": settlement.now})
    run.state, run.cancel_requested, run.timed_out = RunState.RUNNING, False, False
    settlement.record(Event(run.id, "run", state=RunState.RUNNING))


def stop_sub_runs(connection: Connection, run_id: uuid.UUID, rows: Sequence[NodeRunRow]) -> None:
    """Cancel the open sub-runs of these node runs; the caller holds the outer run, which is older."""
    wanted = {(row.node_no, row.map_index) for row in rows}
    found = connection.execute(_SUB_RUNS, {"run": run_id}).all()
    ids = [row.id for row in found if (row.parent_node_no, row.parent_map_index) in wanted]
    open_now = [run for run in lock_runs(connection, ids).values() if not run.is_final]
    if open_now:
        stop_runs(connection, open_now, timed_out=False)


_RUNS_OF = text("""
SELECT r.id FROM run r JOIN workflow w ON w.id = r.workflow_id JOIN workspace s ON s.id = w.workspace_id
WHERE s.name = :workspace AND w.name = :workflow AND w.source <> 'adhoc' AND r.state <> 'queued'
  AND r.logical_date >= :from AND r.logical_date < :to
ORDER BY r.logical_date, r.id
""")


def runs_between(
    connection: Connection, workflow: str, since: datetime, until: datetime, *, workspace: str
) -> list[str]:
    """Ids of a workflow's started runs whose logical date lies in [since, until), the oldest first.

    Raises:
        NotFound: There is no such workflow.
    """
    find_workflow(connection, workflow, workspace=workspace)
    parameters = {"workflow": workflow, "from": since, "to": until, "workspace": workspace}
    return [str(run_id) for run_id in connection.scalars(_RUNS_OF, parameters)]

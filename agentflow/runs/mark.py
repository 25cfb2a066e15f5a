"""Marking a node run by hand, and notes on runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.catalog.lookup import DEFAULT_WORKSPACE
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.recount import recount_run
from agentflow.db.queries.settle import Settlement
from agentflow.errors import Conflict, NotFound, UsageError
from agentflow.runs.address import localise
from agentflow.runs.clear import reopen, stop_sub_runs
from agentflow.runs.ids import find_run, no_run
from agentflow.runs.selection import NodeRunRow, lock_rows, named
from agentflow.states import NODE_RUN_FINAL, NODE_RUN_SLOTTED, NodeRunState

MARKABLE = (NodeRunState.SUCCESS, NodeRunState.FAILED, NodeRunState.SKIPPED)
MAX_NOTE = 10_000  #: Characters.

_MARK = text("""
WITH a AS (
  UPDATE attempt SET state = 'cancelled', finished_at = :now
  WHERE run_id = :run AND node_no = :no AND map_index = :index AND state = 'deferred'
)
UPDATE node_run SET state = :state, finished_at = :now, resume_at = NULL, resume_key = NULL, resume_state = NULL,
  error = CASE WHEN :state = 'failed' THEN json_build_object('type', 'Marked', 'message', 'marked failed by ' || :actor) END
WHERE run_id = :run AND node_no = :no AND map_index = :index
""")
_REOPEN_SUMMARY = text("""
UPDATE node_run SET state = 'deferred', resume_key = 'map', resume_at = NULL, finished_at = NULL, error = NULL
WHERE run_id = :run AND node_no = :no AND map_index = -1
""")
_NOTE = text("UPDATE run SET note = :note WHERE id = :id AND note IS DISTINCT FROM :note")


def mark_node(
    connection: Connection, run_id: str, node: str, state: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Set the state of a node run by hand; what waits for it goes on accordingly.

    Marking a mapped node marks its open indexes with it; marking one index decides its node anew.

    Args:
        connection: The caller's transaction.
        run_id: The run.
        node: An address: `fetch`, `fetch[3]`, `loop.sub[2].fetch`.
        state: success, failed or skipped.
        actor: Who asks.
        workspace: Whose run it is.

    Returns:
        `{id, changed}`; the id of the run that holds the node.

    Raises:
        NotFound: No such run or node.
        UsageError: The state cannot be set by hand, or `node` is not the address of a node run.
        Conflict: An attempt of it is running, or the run is being stopped.
    """
    if state not in MARKABLE:
        raise UsageError(f"A node cannot be marked {state!r}.", hint=f"one of {', '.join(MARKABLE)}")
    run_id, (node,) = localise(connection, run_id, [node], workspace=workspace)
    key = find_run(connection, run_id, workspace=workspace)
    runs = lock_runs(connection, [key])
    rows = lock_rows(connection, key) if key in runs else []
    if not rows:
        raise NotFound(f"There is no run {run_id} with node runs.", hint="`agentflow runs list` shows the newest")
    found = named(rows, [node])
    marked = [row for row in rows if found.holds(row)]
    if any(row.state in NODE_RUN_SLOTTED for row in marked):
        raise Conflict(f"An attempt of {node!r} is running.", hint="wait for it, or cancel the run")
    first = marked[0]
    if first.state == state:
        return {"id": run_id, "changed": False}
    run = runs[key]
    if run.stopping and not run.is_final:
        raise Conflict(f"The run {run_id} is being stopped.", hint="mark nodes once it has ended")
    settlement = Settlement(connection, runs, database_now(connection))
    for row in [first, *(row for row in marked[1:] if row.state not in NODE_RUN_FINAL)]:
        _mark(connection, settlement, row, state, actor)
    if first.map_index != NOT_MAPPED:
        connection.execute(_REOPEN_SUMMARY, {"run": key, "no": first.node_no})
    stop_sub_runs(connection, key, marked)
    reopen(connection, settlement, run)
    recount_run(connection, settlement, key)
    settlement.write(wake=True)
    audit(connection, run.workspace_id, actor, "node.marked", f"{run_id}/{node}", state=state)
    return {"id": run_id, "changed": True}


def _mark(connection: Connection, settlement: Settlement, row: NodeRunRow, state: str, actor: str) -> None:
    (key,) = settlement.runs
    place = {"run": key, "no": row.node_no, "index": row.map_index}
    connection.execute(_MARK, place | {"state": state, "now": settlement.now, "actor": actor})
    settlement.record(Event(key, "marked", row.node_no, row.map_index, None, state, {"by": actor}))


def set_note(
    connection: Connection, run_id: str, note: str, *, actor: str, workspace: str = DEFAULT_WORKSPACE
) -> dict[str, Any]:
    """Keep a remark with a run; an empty one removes it. Returns `{id, changed}`.

    Raises:
        NotFound: No such run.
        UsageError: The note is longer than MAX_NOTE.
    """
    if len(note) > MAX_NOTE:
        raise UsageError(f"The note has {len(note)} characters.", hint=f"at most {MAX_NOTE}")
    key = find_run(connection, run_id, workspace=workspace)
    runs = lock_runs(connection, [key])
    if key not in runs:
        raise no_run(run_id)
    if not connection.execute(_NOTE, {"note": note, "id": key}).rowcount:
        return {"id": run_id, "changed": False}
    settlement = Settlement(connection, runs, database_now(connection))
    settlement.record(Event(key, "noted", detail={"by": actor}))
    settlement.write()
    audit(connection, runs[key].workspace_id, actor, "run.noted", run_id)
    return {"id": run_id, "changed": True}

"""Marking a node by hand, and notes on runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from agentflow.catalog.audit import audit
from agentflow.db.queries.books import Event
from agentflow.db.queries.locks import database_now, lock_runs
from agentflow.db.queries.recount import recount_run
from agentflow.db.queries.settle import Settlement
from agentflow.errors import Conflict, NotFound, UsageError
from agentflow.runs.clear import REOPEN
from agentflow.runs.ids import parse_run_id
from agentflow.states import NODE_RUN_SLOTTED, NodeRunState, RunState

MARKABLE = (NodeRunState.SUCCESS, NodeRunState.FAILED, NodeRunState.SKIPPED)
MAX_NOTE = 10_000  #: Characters.

_NODE = text("""
SELECT nr.node_no, nr.state FROM node_run nr
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.run_id = :run AND nr.map_index = -1 AND vn.node_id = :node FOR NO KEY UPDATE OF nr
""")
_MARK = text("""
UPDATE node_run SET state = :state, finished_at = :now, resume_at = NULL, resume_key = NULL,
  error = CASE WHEN :state = 'failed' THEN json_build_object('type', 'Marked', 'message', 'marked failed by ' || :actor) END
WHERE run_id = :run AND node_no = :no AND map_index = -1
""")


def mark_node(connection: Connection, run_id: str, node: str, state: str, *, actor: str) -> dict[str, Any]:
    """Set a node's state by hand; downstreams that still wait go on accordingly.

    Returns:
        `{id, changed}`.

    Raises:
        NotFound: No such run or node.
        UsageError: The state cannot be set by hand.
        Conflict: An attempt of the node is running.
    """
    if state not in MARKABLE:
        raise UsageError(f"A node cannot be marked {state!r}.", hint=f"one of {', '.join(MARKABLE)}")
    key = parse_run_id(run_id)
    runs = lock_runs(connection, [key])
    found = connection.execute(_NODE, {"run": key, "node": node}).one_or_none() if key in runs else None
    if found is None:
        raise NotFound(f"There is no node {node!r} in the run {run_id}.", hint="`agentflow runs show` lists its nodes")
    if found.state in NODE_RUN_SLOTTED:
        raise Conflict(f"An attempt of {node!r} is running.", hint="wait for it, or cancel the run")
    if found.state == state:
        return {"id": run_id, "changed": False}
    run = runs[key]
    if run.stopping and not run.is_final:
        raise Conflict(f"The run {run_id} is being stopped.", hint="mark nodes once it has ended")
    now = database_now(connection)
    settlement = Settlement(connection, runs, now)
    connection.execute(_MARK, {"run": key, "no": found.node_no, "state": state, "now": now, "actor": actor})
    if run.is_final:
        connection.execute(REOPEN, {"run": key, "now": now})
        run.state, run.cancel_requested, run.timed_out = RunState.RUNNING, False, False
    settlement.record(Event(key, "marked", found.node_no, -1, None, state, {"by": actor}))
    recount_run(connection, settlement, key)
    settlement.write(wake=True)
    audit(connection, run.workspace_id, actor, "node.marked", f"{run_id}/{node}", state=state)
    return {"id": run_id, "changed": True}


def set_note(connection: Connection, run_id: str, note: str, *, actor: str) -> dict[str, Any]:
    """Keep a remark with a run; an empty one removes it. Returns `{id, changed}`.

    Raises:
        NotFound: No such run.
        UsageError: The note is longer than MAX_NOTE.
    """
    if len(note) > MAX_NOTE:
        raise UsageError(f"The note has {len(note)} characters.", hint=f"at most {MAX_NOTE}")
    key = parse_run_id(run_id)
    runs = lock_runs(connection, [key])
    if key not in runs:
        raise NotFound(f"There is no run {run_id}.", hint="`agentflow runs list` shows the newest")
    connection.execute(text("UPDATE run SET note = :note WHERE id = :id"), {"note": note, "id": key})
    audit(connection, runs[key].workspace_id, actor, "run.noted", run_id)
    return {"id": run_id, "changed": True}

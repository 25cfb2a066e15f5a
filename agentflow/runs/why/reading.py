"""Reads the facts: a few statements, each bounded by the open node runs or a limit, never by history."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, Row, text

from agentflow.db.queries.claims import oldest_open_run
from agentflow.db.queries.gates import SUB_RUN
from agentflow.runs.address import Place
from agentflow.runs.logs import last_line
from agentflow.runs.why.facts import (
    AttemptFacts,
    Facts,
    Holder,
    NodeFacts,
    PoolFacts,
    RunFacts,
    SchedulerFacts,
    Upstream,
)
from agentflow.runs.why.reasons import AHEAD_BOUND
from agentflow.states import SCHEDULER_DEAD, NodeRunState, RunState

SHOWN = 20  #: Upstreams and runs told by name.
HOLDERS = 5
LAST_WORD = 300  #: Characters.

_RUN = text("""
SELECT r.id, r.state, r.triggered_by, r.workflow_id, r.cancel_requested_at IS NOT NULL AS cancelling, r.reserved_for,
  r.started_at IS NOT NULL AS started, r.parent_run_id IS NOT NULL AS sub_run, r.logical_date, r.created_at, w.name AS workflow,
  w.paused, w.pause_reason, coalesce(b.max_active_runs, w.max_active_runs) AS max_active_runs, w.concurrency,
  w.depends_on_past, clock_timestamp() AS now, r.backfill_id, coalesce(b.state = 'paused', false) AS backfill_paused,
  coalesce(b.reverse, false) AS backwards
FROM run r JOIN workflow w ON w.id = r.workflow_id LEFT JOIN backfill b ON b.id = r.backfill_id WHERE r.id = :run
""")
_ACTIVE = text("""
SELECT id, count(*) OVER () AS total FROM run
WHERE workflow_id = :workflow AND state = 'running' AND parent_run_id IS NULL
  AND backfill_id IS NOT DISTINCT FROM CAST(:backfill AS uuid)
ORDER BY id LIMIT :shown
""")
_AHEAD_RUNS = text("""
SELECT count(*) FROM run
WHERE workflow_id = :workflow AND state = 'queued' AND reserved_for IS NULL AND parent_run_id IS NULL
  AND backfill_id IS NOT DISTINCT FROM CAST(:backfill AS uuid)
  AND CASE WHEN :backwards THEN logical_date > :logical
    ELSE (coalesce(logical_date, created_at), id) < (coalesce(CAST(:logical AS timestamptz), :created), :run) END
""")
_PAST = text("""
SELECT id, state FROM run
WHERE workflow_id = :workflow AND logical_date < :logical
  AND triggered_by IN ('cron', 'interval', 'calendar', 'date', 'backfill') AND parent_run_id IS NULL
ORDER BY logical_date DESC, id DESC LIMIT 1
""")
_CONCURRENT = text("""
SELECT count(*) FROM node_run nr JOIN dispatch_group dg ON dg.id = nr.group_id
WHERE nr.state IN ('queued', 'running') AND nr.run_id >= :oldest AND dg.workflow_id = :workflow
""")
_NODE = text("""
SELECT nr.*, vn.node_id, vn.type, vn.trigger_rule, vn.gated, vn.index_gated, vn.retries, vn.max_parallel,
  dg.executor AS wanted_executor, dg.queue, dg.io, dg.pool_id, p.name AS pool_name, p.slots AS pool_total
FROM node_run nr JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
JOIN dispatch_group dg ON dg.id = nr.group_id JOIN pool p ON p.id = dg.pool_id
WHERE nr.run_id = :run AND vn.node_id = :node AND nr.map_index = :index
""")
_UPSTREAMS = text("""
SELECT vn.node_id, nr.state FROM version_edge e
JOIN node_run nr ON nr.run_id = :run AND nr.node_no = e.up_no AND nr.map_index = -1
JOIN version_node vn ON vn.version_id = e.version_id AND vn.node_no = e.up_no
WHERE e.version_id = :version AND e.down_no = :node
ORDER BY nr.finished_at IS NOT NULL, nr.state NOT IN ('failed', 'upstream_failed', 'cancelled'), e.up_no LIMIT :shown
""")
_POOL = text("""
SELECT w.name AS workflow, nr.run_id, vn.node_id, nr.map_index, nr.pool_slots, sum(nr.pool_slots) OVER () AS used
FROM node_run nr JOIN dispatch_group dg ON dg.id = nr.group_id JOIN workflow w ON w.id = dg.workflow_id
JOIN version_node vn ON vn.version_id = nr.version_id AND vn.node_no = nr.node_no
WHERE nr.state IN ('queued', 'running') AND nr.run_id >= :oldest AND dg.pool_id = :pool
ORDER BY nr.pool_slots DESC, nr.queued_at LIMIT :holders
""")
_AHEAD_NODES = text("""
SELECT count(*) FROM (
  SELECT FROM node_run o
  WHERE o.state = 'ready' AND o.group_id = :group AND o.run_id >= :oldest
    AND (o.priority > :priority OR (o.priority = :priority AND (o.ready_at, o.run_id, o.node_no) < (:ready, :run, :node)))
  LIMIT :bound) AS ahead
""")
#: Pools are a workspace's own, schedulers everybody's: what others run there is counted by a function that may see it.
_SCHEDULERS = text("""
SELECT s.id, s.hostname, s.executors, s.queues, s.parallelism, (SELECT slots FROM scheduler_load(s.id)) AS used
FROM scheduler s WHERE s.state = 'alive' AND s.beat_at > clock_timestamp() - make_interval(secs => :dead) ORDER BY s.id
""")
_ATTEMPT = text("""
SELECT a.*, coalesce(s.state IN ('alive', 'stopping') AND s.beat_at > clock_timestamp() - make_interval(secs => :dead),
  false) AS scheduler_alive
FROM attempt a LEFT JOIN scheduler s ON s.id = a.scheduler_id
WHERE a.run_id = :run AND a.node_no = :node AND a.map_index = :index AND a.attempt = :attempt
""")
_SUB_RUNS = text("""
SELECT id, state FROM run
WHERE parent_run_id = :run AND parent_node_no = :node AND parent_map_index = :index AND state IN ('queued', 'running')
ORDER BY parent_seq LIMIT :shown
""")


def read_facts(connection: Connection, place: Place, address: str) -> Facts:
    """Everything that may matter for the node run at `place`; for a sub-run as a whole, for its start."""
    oldest = oldest_open_run(connection)
    row = connection.execute(_RUN, {"run": place.run_id}).one()
    run = _run(connection, row, oldest)
    schedulers = tuple(
        SchedulerFacts(str(s.id), s.hostname, tuple(s.executors), tuple(s.queues), s.parallelism, s.used)
        for s in connection.execute(_SCHEDULERS, {"dead": SCHEDULER_DEAD})
    )
    key = {"run": place.run_id, "node": place.node, "index": place.map_index}
    found = connection.execute(_NODE, key).one_or_none() if place.node is not None else None
    if found is None:
        return Facts(run, schedulers=schedulers)
    return Facts(
        run,
        _node(connection, found, address, oldest),
        _pool(connection, found, oldest) if found.state == NodeRunState.READY else None,
        schedulers,
        _attempt(connection, found) if found.attempt else None,
    )


def _run(connection: Connection, row: Row[Any], oldest: uuid.UUID) -> RunFacts:
    key = {"workflow": row.workflow_id, "logical": row.logical_date, "created": row.created_at, "run": row.id}
    key |= {"backfill": row.backfill_id, "backwards": row.backwards}
    queued = row.state == RunState.QUEUED
    active = connection.execute(_ACTIVE, key | {"shown": SHOWN}).all() if queued else []
    past = connection.execute(_PAST, key).one_or_none() if queued and row.depends_on_past and row.logical_date else None
    return RunFacts(
        id=str(row.id),
        state=RunState(row.state),
        workflow=row.workflow,
        now=row.now,
        triggered_by=row.triggered_by,
        paused=row.paused,
        pause_reason=row.pause_reason,
        max_active_runs=row.max_active_runs,
        active=tuple(str(one.id) for one in active),
        active_count=active[0].total if active else 0,
        ahead=connection.scalar(_AHEAD_RUNS, key) or 0 if queued else 0,
        blocked_by_past=(str(past.id), past.state) if past is not None and past.state != RunState.SUCCESS else None,
        concurrency=row.concurrency,
        concurrent=connection.scalar(_CONCURRENT, key | {"oldest": oldest}) or 0 if row.concurrency is not None else 0,
        cancelling=row.cancelling,
        reserved_for=str(row.reserved_for) if row.reserved_for else None,
        started=row.started,
        sub_run=row.sub_run,
        backfill=str(row.backfill_id) if row.backfill_id else None,
        backfill_paused=row.backfill_paused,
    )


def _node(connection: Connection, row: Row[Any], address: str, oldest: uuid.UUID) -> NodeFacts:
    key = {"run": row.run_id, "node": row.node_no, "index": row.map_index}
    upstreams = connection.execute(_UPSTREAMS, key | {"version": row.version_id, "shown": SHOWN})
    place = {"group": row.group_id, "oldest": oldest, "priority": row.priority, "ready": row.ready_at}
    waits_for_sub_run = row.state == NodeRunState.DEFERRED and row.resume_key == SUB_RUN
    is_index = row.map_index >= 0
    return NodeFacts(
        address=address,
        state=NodeRunState(row.state),
        type=row.type,
        trigger_rule=row.trigger_rule,
        upstreams=tuple(Upstream(one.node_id, NodeRunState(one.state)) for one in upstreams) if not is_index else (),
        upstream_count=row.n_up,
        done_count=row.up_success + row.up_failed + row.up_upstream_failed + row.up_skipped,
        gated=row.index_gated if is_index else row.gated,
        resume_at=row.resume_at,
        resume_key=row.resume_key,
        ready_at=row.ready_at,
        executor=row.wanted_executor,
        queue=row.queue,
        io=row.io,
        pool_slots=row.pool_slots,
        ahead=connection.scalar(_AHEAD_NODES, key | place | {"bound": AHEAD_BOUND}) or 0
        if row.state == NodeRunState.READY
        else 0,
        failures=row.failures,
        losses=row.losses,
        retries=row.retries,
        max_parallel=row.max_parallel,
        map_open=row.map_open,
        is_index=is_index,
        sub_runs=tuple((str(one.id), one.state) for one in connection.execute(_SUB_RUNS, key | {"shown": SHOWN}))
        if waits_for_sub_run
        else (),
        error=row.error,
    )


def _pool(connection: Connection, row: Row[Any], oldest: uuid.UUID) -> PoolFacts:
    key = {"pool": row.pool_id, "oldest": oldest, "holders": HOLDERS}
    held = connection.execute(_POOL, key).all()
    holders = tuple(Holder(one.workflow, str(one.run_id), _name(one), one.pool_slots) for one in held)
    return PoolFacts(row.pool_name, row.pool_total, held[0].used if held else 0, holders)


def _name(row: Row[Any]) -> str:
    return str(row.node_id) if row.map_index < 0 else f"{row.node_id}[{row.map_index}]"


def _attempt(connection: Connection, row: Row[Any]) -> AttemptFacts | None:
    key = {"run": row.run_id, "node": row.node_no, "index": row.map_index, "attempt": row.attempt}
    found = connection.execute(_ATTEMPT, key | {"dead": SCHEDULER_DEAD}).one_or_none()
    if found is None:
        return None
    said = (found.error or {}).get("message") or last_line(
        connection, row.run_id, row.node_no, row.map_index, row.attempt
    )
    return AttemptFacts(
        number=found.attempt,
        state=found.state,
        executor=found.executor,
        queued_at=found.queued_at,
        started_at=found.started_at,
        scheduler_alive=found.scheduler_alive,
        last_word=str(said).splitlines()[0][:LAST_WORD] if said else None,
    )

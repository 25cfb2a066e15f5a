"""What a watcher reads: what changed in runs after a position, which runs moved, what follows in logs."""

from __future__ import annotations

from sqlalchemy import text

from agentflow.db.models.history import NOT_MAPPED

_RUN = """r.id, w.name AS workflow, v.version, r.state, r.event_seq, r.triggered_by, r.logical_date, r.created_at,
  r.started_at, r.finished_at, r.note, r.timed_out, r.cancel_requested_at IS NOT NULL AS cancelling,
  r.total_nodes, r.open_nodes, r.failed_leaves, r.parent_run_id, r.workflow_id, r.hidden"""

#: Node runs that an event since names, the summaries of those indexes, and their downstreams, which may be ready now;
#: all of them after an event of the run itself (started, cleared) or when nothing is known.
CHANGES = text(f"""
WITH r AS MATERIALIZED (
  SELECT run.*, k.after, k.after < 0 OR EXISTS (
    SELECT FROM run_event e WHERE e.run_id = run.id AND e.seq > k.after AND e.kind = 'run' AND e.state = 'running'
  ) AS whole
  FROM unnest(CAST(:runs AS uuid[]), CAST(:afters AS bigint[])) AS k(id, after) JOIN run ON run.id = k.id
  WHERE run.workspace_id = :workspace
), t AS MATERIALIZED (
  SELECT DISTINCT r.id AS run_id, r.version_id, e.node_no, e.map_index
  FROM r JOIN run_event e ON e.run_id = r.id AND e.seq > r.after AND e.seq <= r.event_seq
  WHERE e.node_no IS NOT NULL AND NOT r.whole
), k AS MATERIALIZED (
  SELECT run_id, node_no, map_index FROM t
  UNION SELECT run_id, node_no, {NOT_MAPPED} FROM t
  UNION SELECT t.run_id, e.down_no, {NOT_MAPPED} FROM t
    JOIN version_edge e ON e.version_id = t.version_id AND e.up_no = t.node_no WHERE t.map_index = {NOT_MAPPED}
  UNION SELECT r.id, nr.node_no, nr.map_index FROM r JOIN LATERAL (
    SELECT node_no, map_index FROM node_run WHERE run_id = r.id LIMIT :most + 1) AS nr ON r.whole
), n AS (
  SELECT k.*, row_number() OVER (PARTITION BY run_id ORDER BY node_no, map_index) AS place FROM k
)
SELECT {_RUN}, r.after, vn.node_id, nr.map_index, nr.state AS node_state, nr.attempt, nr.executor, nr.ready_at,
  nr.queued_at, nr.started_at AS node_started_at, nr.finished_at AS node_finished_at, nr.resume_at,
  nr.error ->> 'type' AS error_type, nr.map_open, nr.map_success, nr.map_failed, vn.mapped, n.place
FROM r JOIN workflow w ON w.id = r.workflow_id JOIN workflow_version v ON v.id = r.version_id
LEFT JOIN n ON n.run_id = r.id AND n.place <= :most + 1
LEFT JOIN node_run nr ON nr.run_id = n.run_id AND nr.node_no = n.node_no AND nr.map_index = n.map_index
LEFT JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_no = nr.node_no
ORDER BY r.id, n.place
""")

ROWS = text(f"""
SELECT {_RUN} FROM run r JOIN workflow w ON w.id = r.workflow_id JOIN workflow_version v ON v.id = r.version_id
WHERE r.id = ANY(:runs) AND r.workspace_id = :workspace AND NOT r.hidden ORDER BY r.id
""")

POSITIONS = text("SELECT id, event_seq FROM run WHERE id = ANY(:runs) AND workspace_id = :workspace")

#: The few open runs first, by their own index: in order of id a plan might read all of history.
OPEN = text("""
WITH o AS MATERIALIZED (
  SELECT id, event_seq FROM run WHERE state IN ('queued', 'running') AND workspace_id = :workspace AND NOT hidden
) SELECT id, event_seq FROM o ORDER BY id DESC LIMIT :most
""")

NEWER = text("""
SELECT id, event_seq FROM run WHERE workspace_id = :workspace AND id > :after AND NOT hidden ORDER BY id LIMIT :most
""")

NOW = text("SELECT clock_timestamp()")

TAIL = text("""
SELECT k.place, a.state, c.chunk_no, c.first_seq, c.lines, c.truncated_bytes, c.data
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[]), CAST(:maps AS int[]), CAST(:attempts AS int[]),
  CAST(:chunks AS int[]), CAST(:seqs AS int[])) WITH ORDINALITY AS k(run_id, node_no, map_index, attempt, chunk_no, seq, place)
LEFT JOIN attempt a ON a.run_id = k.run_id AND a.node_no = k.node_no AND a.map_index = k.map_index
  AND a.attempt = k.attempt
LEFT JOIN LATERAL (
  SELECT * FROM log_chunk c WHERE c.run_id = k.run_id AND c.node_no = k.node_no AND c.map_index = k.map_index
    AND c.attempt = k.attempt AND c.chunk_no > k.chunk_no AND c.first_seq + c.lines > k.seq + 1
  ORDER BY c.chunk_no LIMIT :most
) AS c ON true
ORDER BY k.place, c.chunk_no
""")

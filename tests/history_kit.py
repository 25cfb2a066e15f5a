"""Fills a database with what months of finished runs leave behind: node runs, attempts, outputs, log chunks, events."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Engine, text

from agentflow.catalog import apply_spec
from agentflow.db.engine import transact
from agentflow.db.partitions import ensure_partitions, month_start
from agentflow.ids import uuid7
from agentflow.spec import parse_document

WORKFLOWS = 20  #: Named `old-0` and so on; the runs are divided among them.
_BATCH = 2000  #: Runs of one transaction.

_RUNS = text("""
CREATE TEMPORARY TABLE old ON COMMIT DROP AS
SELECT r.id, r.at, w.id AS workflow_id, w.published_version_id AS version_id,
  CASE WHEN r.n % 50 = 0 THEN 'failed' ELSE 'success' END AS state
FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) WITH ORDINALITY AS r(id, at, n)
JOIN workflow w ON w.name = 'old-' || (r.n % :workflows)
""")
_FILL = [
    text(statement)
    for statement in (
        """
INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, logical_date, params, actor, created_at,
  started_at, finished_at, event_seq, total_nodes, failed_leaves)
SELECT id, 1, workflow_id, version_id, state, 'cron', at, '{}', 'system', at, at, at, :nodes, :nodes,
  CASE state WHEN 'failed' THEN 1 ELSE 0 END FROM old
""",
        """
INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up, attempt,
  executor, ready_at, queued_at, started_at, finished_at)
SELECT old.id, n.node_no, -1, n.version_id, n.group_id, 'success', 0, 1, 0, 1, 'local', at, at, at, at
FROM old JOIN version_node n ON n.version_id = old.version_id
""",
        """
INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at,
  started_at, finished_at)
SELECT old.id, no, -1, 1, 'success', '\\x00', 'local', CAST(:scheduler AS uuid), at, at, at
FROM old, generate_series(0, :nodes - 1) AS no
""",
        """
INSERT INTO output (run_id, node_no, map_index, value, bytes)
SELECT old.id, no, -1, '{"rows": 1}', 11 FROM old, generate_series(0, :nodes - 1) AS no
""",
        """
INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)
SELECT old.id, 0, -1, 1, 0, 1, 1, 0, :log FROM old
""",
        """
INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, state)
SELECT old.id, s, at, 'node', s - 1, -1, 'success' FROM old, generate_series(1, :nodes) AS s
""",
    )
]


def fill_history(engine: Engine, *, now: datetime, runs: int, nodes: int, days: int) -> None:
    """Add `runs` ended runs of `nodes` nodes each, spread evenly over the `days` before `now`, and tell the planner.

    Their workflows are scheduled ones, and their scheduler is one that nobody knows any more.
    """
    begin = now - timedelta(days=days)
    months = (now.year - begin.year) * 12 + now.month - begin.month
    transact(engine, lambda connection: ensure_partitions(connection, begin, months=months))
    assert month_start(begin) <= begin
    for number in range(WORKFLOWS):
        spec = parse_document({"name": f"old-{number}", "nodes": {f"n{no}": {"type": "noop"} for no in range(nodes)}})
        transact(engine, partial(apply_spec, spec=spec, source="api", actor="test"))
    scheduler = uuid7(begin)
    for times in _batches(begin, now - begin, runs):
        transact(engine, partial(_fill, times=times, nodes=nodes, scheduler=str(scheduler)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _batches(begin: datetime, span: timedelta, runs: int) -> Iterator[list[datetime]]:
    times = [begin + span * (number / runs) for number in range(runs)]
    return (times[first : first + _BATCH] for first in range(0, runs, _BATCH))


def _fill(connection: Connection, times: list[datetime], nodes: int, scheduler: str) -> None:
    connection.execute(_RUNS, {"ids": [uuid7(at) for at in times], "times": times, "workflows": WORKFLOWS})
    line = b'[1, 1790000000.0, "stdout", "info", "done"]'
    for statement in _FILL:
        connection.execute(statement, {"nodes": nodes, "scheduler": scheduler, "log": zlib.compress(line)})

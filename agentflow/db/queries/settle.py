"""What follows when node runs become final: their downstreams, the run's counters, its end, its history.

One helper for all who finish node runs (executor results, evaluator, cancel, clear, mark). The caller holds the runs'
locks and has written the final node runs; `settle` adds their outcomes to the downstreams, level by level, and
`write` closes the books: one UPDATE a run, its events, one NOTIFY.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from agentflow.db.arrays import ints, uuids, words
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.notify import LIVE, READY, live_payload
from agentflow.db.queries.locks import LockedRun
from agentflow.rules import rule_sql
from agentflow.states import NODE_RUN_FINAL, NodeRunState, RunState

MAX_LEVELS = 100  #: Levels of skipped and upstream_failed in one transaction; the rest follows in the next.
_FAILED = frozenset({NodeRunState.FAILED, NodeRunState.UPSTREAM_FAILED})


@dataclass(frozen=True, slots=True)
class FinalNode:
    """A node run that has just become final."""

    run_id: uuid.UUID
    version_id: int
    node_no: int
    state: NodeRunState
    is_leaf: bool
    map_index: int = NOT_MAPPED
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A row of a run's history, not numbered yet."""

    run_id: uuid.UUID
    kind: str
    node_no: int | None = None
    map_index: int | None = None
    attempt: int | None = None
    state: str | None = None
    detail: dict[str, Any] | None = None


VERDICT = rule_sql(
    rule="vn.trigger_rule",
    n="l.n_up",
    success="l.success",
    failed="l.failed",
    upstream_failed="l.upstream_failed",
    skipped="l.skipped",
)
#: Outcomes grouped per downstream (two parents may end in one batch), locked in key order, decided from new values.
_PROPAGATE = text(f"""
WITH f AS (
  SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:versions AS bigint[]), CAST(:nos AS int[]), CAST(:states AS text[]))
    AS t(run_id, version_id, node_no, state)
), forced AS (
  SELECT * FROM unnest(CAST(:forced_runs AS uuid[]), CAST(:forced_nos AS int[])) AS t(run_id, node_no)
), d AS (
  SELECT f.run_id, f.version_id, e.down_no AS node_no,
    count(*) FILTER (WHERE f.state = 'success')::int AS s,
    count(*) FILTER (WHERE f.state IN ('failed', 'cancelled'))::int AS f,
    count(*) FILTER (WHERE f.state = 'upstream_failed')::int AS u,
    count(*) FILTER (WHERE f.state = 'skipped')::int AS k
  FROM f JOIN version_edge e ON e.version_id = f.version_id AND e.up_no = f.node_no
  GROUP BY f.run_id, f.version_id, e.down_no
), l AS (
  SELECT nr.run_id, nr.node_no, d.version_id, nr.state, nr.resume_at, nr.n_up, nr.up_success + d.s AS success,
    nr.up_failed + d.f AS failed, nr.up_upstream_failed + d.u AS upstream_failed, nr.up_skipped + d.k AS skipped
  FROM d JOIN node_run nr ON nr.run_id = d.run_id AND nr.node_no = d.node_no AND nr.map_index = {NOT_MAPPED}
  WHERE nr.run_id = ANY(CAST(:all_runs AS uuid[]))
  ORDER BY nr.run_id, nr.node_no FOR NO KEY UPDATE OF nr
), v AS (
  SELECT l.*, vn.gated, vn.is_leaf,
    CASE
      WHEN forced.node_no IS NOT NULL AND l.state IN ('pending', 'ready') THEN 'skipped'
      WHEN l.state = 'pending' AND l.resume_at IS NULL THEN {VERDICT}
      ELSE l.state
    END AS verdict
  FROM l JOIN version_node vn ON vn.version_id = l.version_id AND vn.node_no = l.node_no
  LEFT JOIN forced ON forced.run_id = l.run_id AND forced.node_no = l.node_no
)
UPDATE node_run nr SET
  up_success = v.success, up_failed = v.failed, up_upstream_failed = v.upstream_failed, up_skipped = v.skipped,
  state = CASE WHEN v.gated AND v.state = 'pending' AND v.verdict = 'ready' THEN 'pending' ELSE v.verdict END,
  ready_at = CASE WHEN v.verdict = 'ready' AND v.state = 'pending' AND NOT v.gated THEN CAST(:now AS timestamptz)
                  ELSE nr.ready_at END,
  resume_at = CASE WHEN v.verdict = 'ready' AND v.state = 'pending' AND v.gated THEN CAST(:now AS timestamptz)
                   WHEN v.verdict IN ('skipped', 'upstream_failed') THEN NULL ELSE nr.resume_at END,
  finished_at = CASE WHEN v.verdict <> v.state AND v.verdict IN ('skipped', 'upstream_failed')
                     THEN CAST(:now AS timestamptz) ELSE nr.finished_at END
FROM v
WHERE nr.run_id = v.run_id AND nr.node_no = v.node_no AND nr.map_index = {NOT_MAPPED}
  AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
RETURNING nr.run_id, v.version_id, nr.node_no, v.state AS old_state, v.verdict, v.gated, v.is_leaf
""")

#: A cascade that was cut off goes on from these final nodes; `due` finds them even after a crash.
CASCADE = "cascade"
_CONTINUE = text(f"""
UPDATE node_run nr SET resume_at = :now, resume_key = '{CASCADE}'
FROM unnest(CAST(:runs AS uuid[]), CAST(:nos AS int[])) AS t(run_id, node_no)
WHERE nr.run_id = t.run_id AND nr.node_no = t.node_no AND nr.map_index = {NOT_MAPPED}
""")

#: Counters, history and notifications of a transaction in one statement.
_WRITE = text(f"""
WITH r AS (
  UPDATE run SET state = t.state, event_seq = t.event_seq, open_nodes = t.open_nodes, failed_leaves = t.failed_leaves,
    finished_at = CASE WHEN t.ended THEN CAST(:now AS timestamptz) ELSE run.finished_at END
  FROM unnest(CAST(:ids AS uuid[]), CAST(:run_states AS text[]), CAST(:run_seqs AS bigint[]), CAST(:opens AS int[]),
    CAST(:leaves AS int[]), CAST(:ended AS boolean[])) AS t(id, state, event_seq, open_nodes, failed_leaves, ended)
  WHERE run.id = t.id AND run.id = ANY(CAST(:ids AS uuid[]))
), e AS (
  INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, attempt, state, detail)
  SELECT run_id, seq, CAST(:now AS timestamptz), kind, node_no, map_index, attempt, state, CAST(detail AS json)
  FROM unnest(CAST(:runs AS uuid[]), CAST(:seqs AS bigint[]), CAST(:kinds AS text[]), CAST(:nos AS int[]),
    CAST(:maps AS int[]), CAST(:attempts AS int[]), CAST(:states AS text[]), CAST(:details AS text[]))
    AS t(run_id, seq, kind, node_no, map_index, attempt, state, detail)
)
SELECT pg_notify('{LIVE}', payload) FROM unnest(CAST(:payloads AS text[])) AS p(payload)
UNION ALL SELECT pg_notify('{READY}', '') WHERE :wake
""")


def decide_run(run: LockedRun) -> RunState | None:
    """The state a run without open node runs ends in (SEMANTICS section 1); None while some are open."""
    if run.open_nodes > 0:
        return None
    if run.timed_out:
        return RunState.FAILED
    if run.cancel_requested:
        return RunState.CANCELLED
    return RunState.FAILED if run.failed_leaves else RunState.SUCCESS


class Settlement:
    """Collects what happened to locked runs in one transaction, then writes it once."""

    def __init__(self, connection: Connection, runs: dict[uuid.UUID, LockedRun], now: datetime) -> None:
        self._connection = connection
        self.runs = runs
        self.now = now
        self.made_ready = 0
        self.made_due = 0  #: Nodes whose `when` may be evaluated now.
        self.ended: list[uuid.UUID] = []
        self.unfinished: list[FinalNode] = []  #: Cascades cut off at MAX_LEVELS.
        self._events: list[Event] = []

    def record(self, event: Event) -> None:
        """Add a line to a run's history."""
        self._events.append(event)

    def settle(self, finals: Sequence[FinalNode], forced_skips: Collection[tuple[uuid.UUID, int]] = ()) -> None:
        """Count final node runs in their runs and carry them to their downstreams, which may become final too."""
        for node in finals:
            self._count(node)
        self.carry_on(finals, forced_skips)

    def carry_on(self, finals: Sequence[FinalNode], forced_skips: Collection[tuple[uuid.UUID, int]] = ()) -> None:
        """Carry outcomes that are counted in their runs already to the downstreams."""
        level, forced = list(finals), forced_skips
        for _ in range(MAX_LEVELS):
            if not level:
                return
            level = self._propagate(level, forced)
            forced = ()
        self.unfinished += level

    def _count(self, node: FinalNode) -> None:
        run = self.runs[node.run_id]
        run.open_nodes -= 1
        if node.is_leaf and node.state in _FAILED:
            run.failed_leaves += 1
        self.record(Event(node.run_id, "node", node.node_no, node.map_index, node.attempt, node.state))

    def _propagate(self, level: list[FinalNode], forced: Collection[tuple[uuid.UUID, int]]) -> list[FinalNode]:
        inner = [node for node in level if not node.is_leaf]
        if not inner:
            return []
        parameters = {
            "runs": uuids(node.run_id for node in inner),
            "versions": ints(node.version_id for node in inner),
            "nos": ints(node.node_no for node in inner),
            "states": words(node.state for node in inner),
            "forced_runs": uuids(run for run, _ in forced),
            "forced_nos": ints(no for _, no in forced),
            "all_runs": uuids({node.run_id for node in inner}),
            "now": self.now,
        }
        following = []
        for row in self._connection.execute(_PROPAGATE, parameters):
            if row.verdict == row.old_state:
                continue
            if row.verdict == NodeRunState.READY:
                self.made_due += row.gated
                self.made_ready += not row.gated
            elif row.verdict in NODE_RUN_FINAL:
                state = NodeRunState(row.verdict)
                following.append(FinalNode(row.run_id, row.version_id, row.node_no, state, row.is_leaf))
        for node in following:
            self._count(node)
        return following

    def write(self, *, wake: bool = False) -> None:
        """End runs that have nothing open, write counters and history, notify. Nothing may follow it."""
        if self.unfinished:
            keys = {"runs": uuids(n.run_id for n in self.unfinished), "nos": ints(n.node_no for n in self.unfinished)}
            self._connection.execute(_CONTINUE, keys | {"now": self.now})
            wake = True
        for run in self.runs.values():
            self._end_if_done(run)
        seqs = []
        for event in self._events:
            run = self.runs[event.run_id]
            run.event_seq += 1
            seqs.append(run.event_seq)
        touched = [self.runs[run_id] for run_id in sorted({event.run_id for event in self._events})]
        if not touched:
            return
        wake = wake or self.made_ready > 0 or self.made_due > 0 or bool(self.ended)
        self._connection.execute(
            _WRITE,
            self._run_columns(touched)
            | self._event_columns(seqs)
            | {
                "payloads": _payloads(touched),
                "wake": wake,
                "now": self.now,
            },
        )

    def _run_columns(self, touched: list[LockedRun]) -> dict[str, object]:
        return {
            "ids": uuids(run.id for run in touched),
            "run_states": words(run.state for run in touched),
            "run_seqs": ints(run.event_seq for run in touched),
            "opens": ints(run.open_nodes for run in touched),
            "leaves": ints(run.failed_leaves for run in touched),
            "ended": words(str(run.id in self.ended).lower() for run in touched),
        }

    def _event_columns(self, seqs: list[int]) -> dict[str, object]:
        events = self._events
        return {
            "runs": uuids(event.run_id for event in events),
            "seqs": ints(seqs),
            "kinds": words(event.kind for event in events),
            "nos": ints(event.node_no for event in events),
            "maps": ints(event.map_index for event in events),
            "attempts": ints(event.attempt for event in events),
            "states": words(event.state or "NULL" for event in events),
            "details": [json.dumps(event.detail) if event.detail else None for event in events],
        }

    def end(self, run: LockedRun) -> None:
        """Note that a run has reached the final state it is in now."""
        self.ended.append(run.id)
        self.record(Event(run.id, "run", state=run.state))

    def _end_if_done(self, run: LockedRun) -> None:
        state = decide_run(run) if run.state is RunState.RUNNING else None
        if state is not None:
            run.state = state
            self.end(run)


def _payloads(touched: list[LockedRun]) -> list[str]:
    by_workspace: dict[int, dict[uuid.UUID, int]] = {}
    for run in touched:
        by_workspace.setdefault(run.workspace_id, {})[run.id] = run.event_seq
    return [live_payload(workspace, last) for workspace, last in by_workspace.items()]

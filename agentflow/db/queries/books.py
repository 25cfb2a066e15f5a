"""Writing what one transaction decided: node runs, attempts, outputs, runs, history, notifications, in one statement.

Every row is locked already and appears once, so one data-modifying statement can carry all of it: a hop pays for one
round trip instead of four.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agentflow.db.arrays import ONE_BY_ONE, ints, times, uuids, words
from agentflow.db.notify import LIVE, READY, live_payload
from agentflow.db.queries.locks import LockedRun
from agentflow.db.statement import Statement
from agentflow.rules import Counts
from agentflow.states import AttemptState, NodeRunState
from agentflow.workload import StoredOutput

NodeKey = tuple[uuid.UUID, int, int]  #: Run, node number, map index.
_NOTHING = Counts(0)


@dataclass(slots=True)
class NodeWrite:
    """New values of a node run. Without a `state` only its counters grow."""

    key: NodeKey
    state: NodeRunState | None = None
    finished_at: datetime | None = None
    resume_at: datetime | None = None
    ready_at: datetime | None = None  #: Null keeps the stored one.
    added: Counts = _NOTHING  #: Outcomes of upstreams that became final.


@dataclass(frozen=True, slots=True)
class AttemptWrite:
    """The decided end, or start, of an attempt."""

    attempt: int
    state: AttemptState
    started_at: datetime | None
    finished_at: datetime | None  #: Null while it runs.
    failures: int
    losses: int
    output: str | StoredOutput | None = None  #: JSON text, or where that is.
    error: str | None = None  #: JSON text.


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


#: A run that was cleared may end again while its first end is being told: that is waited for, so that this one stays.
_WRITE = Statement(f"""
WITH k AS MATERIALIZED (
  SELECT * FROM unnest(CAST(:n_runs AS uuid[]), CAST(:n_nos AS int[]), CAST(:n_maps AS int[]), CAST(:n_states AS text[]),
    CAST(:n_ends AS timestamptz[]), CAST(:n_resumes AS timestamptz[]), CAST(:n_readies AS timestamptz[]),
    CAST(:n_s AS int[]), CAST(:n_f AS int[]), CAST(:n_u AS int[]), CAST(:n_k AS int[]),
    CAST(:a_attempts AS int[]), CAST(:a_states AS text[]), CAST(:a_starts AS timestamptz[]),
    CAST(:a_ends AS timestamptz[]), CAST(:a_failures AS int[]), CAST(:a_losses AS int[]),
    CAST(:a_errors AS text[]), CAST(:a_outputs AS text[]), CAST(:a_refs AS text[]), CAST(:a_bytes AS int[]),
    CAST(:a_previews AS text[]))
    AS t(run_id, node_no, map_index, state, finished_at, resume_at, ready_at, s, f, u, k,
         attempt, a_state, a_started_at, a_finished_at, failures, losses, error, output, ref, bytes, preview)
  {ONE_BY_ONE}
), o AS (
  INSERT INTO output (run_id, node_no, map_index, value, bytes, ref, preview)
  SELECT run_id, node_no, map_index, CAST(output AS json), coalesce(bytes, octet_length(output)), ref, preview
  FROM k WHERE output IS NOT NULL OR ref IS NOT NULL
  ON CONFLICT (run_id, node_no, map_index) DO UPDATE SET value = excluded.value, bytes = excluded.bytes,
    ref = excluded.ref, preview = excluded.preview
), a AS (
  UPDATE attempt SET state = k.a_state, started_at = coalesce(attempt.started_at, k.a_started_at),
    finished_at = k.a_finished_at, error = CAST(k.error AS json)
  FROM k WHERE attempt.run_id = k.run_id AND attempt.node_no = k.node_no AND attempt.map_index = k.map_index
    AND attempt.attempt = k.attempt AND attempt.run_id = ANY(CAST(:all_runs AS uuid[]))
), n AS (
  UPDATE node_run nr SET
    state = coalesce(k.state, nr.state),
    finished_at = CASE WHEN k.state IS NULL THEN nr.finished_at ELSE k.finished_at END,
    resume_at = CASE WHEN k.state IS NULL THEN nr.resume_at ELSE k.resume_at END,
    resume_key = CASE WHEN k.state IS NULL THEN nr.resume_key END,
    resume_state = CASE WHEN k.state IS NULL OR k.a_state IN ('running', 'lost', 'refused') THEN nr.resume_state END,
    ready_at = coalesce(k.ready_at, nr.ready_at),
    up_success = nr.up_success + k.s, up_failed = nr.up_failed + k.f,
    up_upstream_failed = nr.up_upstream_failed + k.u, up_skipped = nr.up_skipped + k.k,
    started_at = coalesce(nr.started_at, k.a_started_at),
    failures = coalesce(k.failures, nr.failures), losses = coalesce(k.losses, nr.losses),
    error = CASE WHEN k.attempt IS NULL THEN nr.error ELSE CAST(k.error AS json) END
  FROM k WHERE nr.run_id = k.run_id AND nr.node_no = k.node_no AND nr.map_index = k.map_index
    AND nr.run_id = ANY(CAST(:all_runs AS uuid[]))
), r AS (
  UPDATE run SET state = t.state, event_seq = t.event_seq, open_nodes = t.open_nodes, failed_leaves = t.failed_leaves,
    finished_at = CASE WHEN t.ended THEN CAST(:now AS timestamptz) ELSE run.finished_at END
  FROM unnest(CAST(:r_ids AS uuid[]), CAST(:r_states AS text[]), CAST(:r_seqs AS bigint[]), CAST(:r_opens AS int[]),
    CAST(:r_leaves AS int[]), CAST(:r_ended AS boolean[])) AS t(id, state, event_seq, open_nodes, failed_leaves, ended)
  WHERE run.id = t.id AND run.id = ANY(CAST(:r_ids AS uuid[]))
), x AS (
  INSERT INTO run_end (run_id) SELECT id FROM unnest(CAST(:r_ids AS uuid[]), CAST(:r_ended AS boolean[])) AS t(id, ended)
  WHERE t.ended ON CONFLICT (run_id) DO UPDATE SET at = excluded.at
), e AS (
  INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, attempt, state, detail)
  SELECT run_id, seq, CAST(:now AS timestamptz), kind, node_no, map_index, attempt, state, CAST(detail AS json)
  FROM unnest(CAST(:e_runs AS uuid[]), CAST(:e_seqs AS bigint[]), CAST(:e_kinds AS text[]), CAST(:e_nos AS int[]),
    CAST(:e_maps AS int[]), CAST(:e_attempts AS int[]), CAST(:e_states AS text[]), CAST(:e_details AS text[]))
    AS t(run_id, seq, kind, node_no, map_index, attempt, state, detail)
)
SELECT pg_notify('{LIVE}', payload) FROM unnest(CAST(:payloads AS text[])) AS p(payload)
UNION ALL SELECT pg_notify('{READY}', '') WHERE :wake
""")


def write_books(
    connection: Connection,
    *,
    nodes: Sequence[tuple[NodeWrite, AttemptWrite | None]],
    runs: Sequence[LockedRun],
    ended: Sequence[uuid.UUID],
    events: Sequence[tuple[int, Event]],
    wake: bool,
    now: datetime,
) -> None:
    """Store it all; `events` come with their numbers."""
    _WRITE.run(
        connection,
        {
            **_node_columns([node for node, _ in nodes]),
            **_attempt_columns([attempt for _, attempt in nodes]),
            **_run_columns(runs, ended),
            **_event_columns(events),
            "all_runs": uuids({node.key[0] for node, _ in nodes}),
            "payloads": _payloads(runs),
            "wake": wake,
            "now": now,
        },
    )


def _node_columns(nodes: list[NodeWrite]) -> dict[str, object]:
    return {
        "n_runs": uuids(n.key[0] for n in nodes),
        "n_nos": ints(n.key[1] for n in nodes),
        "n_maps": ints(n.key[2] for n in nodes),
        "n_states": words(n.state or "NULL" for n in nodes),
        "n_ends": times(n.finished_at for n in nodes),
        "n_resumes": times(n.resume_at for n in nodes),
        "n_readies": times(n.ready_at for n in nodes),
        "n_s": ints(n.added.success for n in nodes),
        "n_f": ints(n.added.failed for n in nodes),
        "n_u": ints(n.added.upstream_failed for n in nodes),
        "n_k": ints(n.added.skipped for n in nodes),
    }


def _attempt_columns(attempts: list[AttemptWrite | None]) -> dict[str, object]:
    outputs = [a.output if a else None for a in attempts]
    stored = [output if isinstance(output, StoredOutput) else None for output in outputs]
    return {
        "a_attempts": ints(a.attempt if a else None for a in attempts),
        "a_states": words(a.state if a else "NULL" for a in attempts),
        "a_starts": times(a.started_at if a else None for a in attempts),
        "a_ends": times(a.finished_at if a else None for a in attempts),
        "a_failures": ints(a.failures if a else None for a in attempts),
        "a_losses": ints(a.losses if a else None for a in attempts),
        "a_errors": [a.error if a else None for a in attempts],
        "a_outputs": [output if isinstance(output, str) else None for output in outputs],
        "a_refs": [one.ref if one else None for one in stored],
        "a_bytes": ints(one.bytes if one else None for one in stored),
        "a_previews": [one.preview if one else None for one in stored],
    }


def _run_columns(runs: Sequence[LockedRun], ended: Sequence[uuid.UUID]) -> dict[str, object]:
    return {
        "r_ids": uuids(run.id for run in runs),
        "r_states": words(run.state for run in runs),
        "r_seqs": ints(run.event_seq for run in runs),
        "r_opens": ints(run.open_nodes for run in runs),
        "r_leaves": ints(run.failed_leaves for run in runs),
        "r_ended": words("true" if run.id in ended else "false" for run in runs),
    }


def _event_columns(events: Sequence[tuple[int, Event]]) -> dict[str, object]:
    return {
        "e_runs": uuids(event.run_id for _, event in events),
        "e_seqs": ints(seq for seq, _ in events),
        "e_kinds": words(event.kind for _, event in events),
        "e_nos": ints(event.node_no for _, event in events),
        "e_maps": ints(event.map_index for _, event in events),
        "e_attempts": ints(event.attempt for _, event in events),
        "e_states": words(event.state or "NULL" for _, event in events),
        "e_details": [json.dumps(event.detail) if event.detail else None for _, event in events],
    }


def _payloads(runs: Sequence[LockedRun]) -> list[str]:
    by_workspace: dict[int, dict[uuid.UUID, int]] = {}
    for run in runs:
        by_workspace.setdefault(run.workspace_id, {})[run.id] = run.event_seq
    return [live_payload(workspace, last) for workspace, last in by_workspace.items()]

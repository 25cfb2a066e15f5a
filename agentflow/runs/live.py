"""What has changed: reading runs, node runs and logs on from where a watcher was (docs/live.md).

Each function reads in one statement, so in one snapshot: a change tells states that were true together, and one that is
read later is never older. Positions are the run's `event_seq`, which every change of state raises, and chunks of a log.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from agentflow.clock import iso
from agentflow.db.arrays import ints, uuids
from agentflow.db.models.history import NOT_MAPPED
from agentflow.db.queries import live
from agentflow.db.queries.attempts import AttemptKey
from agentflow.ids import uuid7_floor, uuid7_time
from agentflow.states import ATTEMPT_FINAL

WHOLE = -1  #: As a position: nothing is known yet, tell everything.
NODES_MAX = 2000  #: Node runs in one change; beyond, the watcher reads the run anew.
RUNS_MAX = 500  #: Runs in one change of a list; beyond, the watcher reads the list anew.
SEEN_MAX = 5000  #: Open runs, and new ones, that are compared with what is known; beyond, the same.
#: Ids are made before their transactions commit, so an older one may appear after a newer one; never this much later.
COMMITS_LATE = timedelta(seconds=20)


def run_changes(
    connection: Connection, workspace: int, afters: Mapping[uuid.UUID, int]
) -> dict[uuid.UUID, dict[str, Any]]:
    """What changed in these runs after their positions; runs that do not exist (here) are missing in the answer.

    Returns:
        By id `{run, from, seq, nodes}`: the run, the positions between which the change lies, and the node runs that
        changed as they are at `seq`. `reset: true` instead of `nodes` when that would be more than NODES_MAX.
    """
    rows = connection.execute(
        live.CHANGES,
        {"workspace": workspace, "runs": list(afters), "afters": list(afters.values()), "most": NODES_MAX},
    )
    changes: dict[uuid.UUID, dict[str, Any]] = {}
    for row in rows:
        change = changes.get(row.id)
        if change is None:
            after = None if row.after < 0 else row.after
            change = changes[row.id] = {"run": _run(row), "from": after, "seq": row.event_seq, "nodes": []}
        if row.place is not None and row.place > NODES_MAX:
            del change["nodes"]
            change["reset"] = True
        elif row.node_id is not None:
            change["nodes"].append(_node(row))
    return changes


def run_rows(connection: Connection, workspace: int, runs: Iterable[uuid.UUID]) -> list[dict[str, Any]]:
    """These runs as they are now, without nodes; those that lists hide, or that do not exist, are left out."""
    return [_run(row) for row in connection.execute(live.ROWS, {"workspace": workspace, "runs": list(runs)})]


def positions(connection: Connection, workspace: int, runs: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:
    """How far these runs are."""
    found = connection.execute(live.POSITIONS, {"workspace": workspace, "runs": list(runs)})
    return {row.id: row.event_seq for row in found}


@dataclass(slots=True)
class Known:
    """What a watcher of a workspace's runs has been told; it must remember runs for COMMITS_LATE after their end."""

    seqs: dict[uuid.UUID, int]  #: Positions of the runs that were open then, and of newer ones.
    newest: uuid.UUID  #: No run with a greater id was known; not the id of a run of ours.

    def tell(self, runs: Sequence[Mapping[str, Any]]) -> None:
        """Take over what is told now."""
        for run in runs:
            run_id = uuid.UUID(run["id"])
            self.seqs[run_id] = run["event_seq"]
            self.newest = max(self.newest, run_id)


def look_around(connection: Connection, workspace: int, known: Known | None) -> tuple[list[uuid.UUID], Known] | None:
    """Find the runs of a workspace that moved since `known`, and what is known then; None: too many to tell.

    Runs that were open and are not, runs that are open and were not, runs at another position, and new ones.
    """
    newest = uuid7_floor(connection.scalars(live.NOW).one())
    after = _earlier(newest if known is None else known.newest)
    opened = list(connection.execute(live.OPEN, {"workspace": workspace, "most": SEEN_MAX}))
    newer = list(connection.execute(live.NEWER, {"workspace": workspace, "after": after, "most": SEEN_MAX}))
    seqs = {row.id: row.event_seq for row in (*opened, *newer)}
    if known is None:
        return [], Known(seqs, newest)
    moved = {run for run, seq in seqs.items() if known.seqs.get(run) != seq}
    left = known.seqs.keys() - seqs.keys()  # ended; most were told so
    if left:
        moved |= {run for run, seq in positions(connection, workspace, left).items() if known.seqs[run] != seq}
    if len(opened) == SEEN_MAX or len(newer) == SEEN_MAX or len(moved) > RUNS_MAX:
        return None
    return sorted(moved), Known(seqs, max(newest, known.newest))


def _earlier(run_id: uuid.UUID) -> uuid.UUID:
    if run_id.int == 0:
        return run_id
    return uuid7_floor(uuid7_time(run_id) - COMMITS_LATE)


CHUNKS_MAX = 4  #: Of one attempt's log in one look: up to a quarter of a megabyte of text.


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far an attempt's log has been told."""

    key: AttemptKey
    seq: int  #: Of the last line.
    chunk_no: int = -1  #: Of the last chunk; only spares the database looking at the earlier ones.


@dataclass(frozen=True, slots=True)
class LogTail:
    """What follows a position."""

    position: LogPosition
    lines: list[dict[str, Any]]
    more: bool  #: There is more to read at once.
    ended: bool  #: The attempt has ended, so that only lines on their way may still come.
    truncated_bytes: int


def log_tails(connection: Connection, wanted: Sequence[LogPosition]) -> list[LogTail]:
    """What was written after these positions, in their order, a few chunks of each."""
    keys = [position.key for position in wanted]
    rows = connection.execute(
        live.TAIL,
        {
            "runs": uuids(key[0] for key in keys),
            "nos": ints(key[1] for key in keys),
            "maps": ints(key[2] for key in keys),
            "attempts": ints(key[3] for key in keys),
            "chunks": ints(position.chunk_no for position in wanted),
            "seqs": ints(position.seq for position in wanted),
            "most": CHUNKS_MAX,
        },
    )
    grouped: dict[int, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row.place - 1, []).append(row)
    return [_tail(position, grouped[place]) for place, position in enumerate(wanted)]


def _tail(position: LogPosition, rows: Sequence[Any]) -> LogTail:
    lines: list[dict[str, Any]] = []
    seq, chunk_no, truncated = position.seq, position.chunk_no, 0
    for row in rows:
        if row.chunk_no is None:
            continue
        for line in zlib.decompress(row.data).splitlines():
            number, at, stream, level, message = json.loads(line)
            if number > position.seq:
                moment = iso(datetime.fromtimestamp(at, UTC))
                lines.append({"seq": number, "at": moment, "stream": stream, "level": level, "text": message})
        seq, chunk_no = max(seq, row.first_seq + row.lines - 1), row.chunk_no
        truncated = max(truncated, row.truncated_bytes)
    return LogTail(
        LogPosition(position.key, seq, chunk_no),
        lines,
        more=len(rows) >= CHUNKS_MAX,
        ended=rows[0].state in ATTEMPT_FINAL,
        truncated_bytes=truncated,
    )


def _run(row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "workflow": row.workflow,
        "version": row.version,
        "state": row.state,
        "event_seq": row.event_seq,
        "triggered_by": row.triggered_by,
        "logical_date": iso(row.logical_date),
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "note": row.note or None,
        "timed_out": row.timed_out,
        "cancelling": row.cancelling and row.finished_at is None,
        "total_nodes": row.total_nodes,
        "open_nodes": row.open_nodes,
        "failed_leaves": row.failed_leaves,
        "parent_run": str(row.parent_run_id) if row.parent_run_id else None,
    }


def _node(row: Any) -> dict[str, Any]:
    document = {
        "node": row.node_id,
        "map_index": None if row.map_index == NOT_MAPPED else row.map_index,
        "state": row.node_state,
        "attempt": row.attempt,
        "executor": row.executor,
        "ready_at": iso(row.ready_at),
        "queued_at": iso(row.queued_at),
        "started_at": iso(row.node_started_at),
        "finished_at": iso(row.node_finished_at),
        "resume_at": iso(row.resume_at),
        "error": row.error_type,
    }
    if row.mapped and row.map_index == NOT_MAPPED:
        document["indexes"] = {"open": row.map_open, "success": row.map_success, "failed": row.map_failed}
    return document

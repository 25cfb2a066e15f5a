"""NOTIFY, once per batch, from here only (ENGINE 7)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

from sqlalchemy import Connection, text

READY = "agentflow_ready"  #: Empty payload: something may be startable, cancelled or changed.
LIVE = "agentflow_live"  #: `{"ws": id, "runs": {run id: last seq}}`, or `{"ws": id, "runs": "many"}`.
GONE = -1  #: As a run's last seq: it was deleted.
MANY = 50  #: More runs than this in one batch are announced as "many".

_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


def notify_ready(connection: Connection) -> None:
    """Wake the schedulers when this transaction commits."""
    connection.execute(_NOTIFY, {"channel": READY, "payload": ""})


def notify_live(connection: Connection, workspace_id: int, last_seq: Mapping[uuid.UUID, int]) -> None:
    """Tell who watches, when this transaction commits: of runs that were created, and what no settlement tells."""
    connection.execute(_NOTIFY, {"channel": LIVE, "payload": live_payload(workspace_id, last_seq)})


def live_payload(workspace_id: int, last_seq: Mapping[uuid.UUID, int]) -> str:
    """The payload that tells listeners which runs moved, and how far."""
    runs: object = {str(run): seq for run, seq in last_seq.items()} if len(last_seq) <= MANY else "many"
    return json.dumps({"ws": workspace_id, "runs": runs}, separators=(",", ":"))

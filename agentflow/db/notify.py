"""NOTIFY, once per batch, from here only (ENGINE 7)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping

from sqlalchemy import Connection, text

READY = "agentflow_ready"  #: Empty payload: something may be startable, cancelled or changed.
#: `{"ws": id, "runs": {run id: last seq} or "many"}`; with `"workflows": [names] or "many"` if definitions changed, with
#: `"rights": true` (and no workspace: 0) if somebody lost a right.
LIVE = "agentflow_live"
GONE = -1  #: As a run's last seq: it was deleted.
MANY = 50  #: More runs or workflows than this in one batch are announced as "many".

_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


def notify_ready(connection: Connection) -> None:
    """Wake the schedulers when this transaction commits."""
    connection.execute(_NOTIFY, {"channel": READY, "payload": ""})


def notify_live(connection: Connection, workspace_id: int, last_seq: Mapping[uuid.UUID, int]) -> None:
    """Tell who watches, when this transaction commits: of runs that were created, and what no settlement tells."""
    connection.execute(_NOTIFY, {"channel": LIVE, "payload": live_payload(workspace_id, last_seq)})


def notify_workflows(
    connection: Connection, workspace_id: int, names: Collection[str], *, with_runs: bool = False
) -> None:
    """Tell who watches, when this transaction commits, that these workflows were changed, made or deleted.

    Postgres sends the same words once a transaction, however often they are said.

    Args:
        connection: The transaction that does it.
        workspace_id: Whose they are.
        names: Of the workflows; none: nothing is said.
        with_runs: Runs were deleted with them.
    """
    if names:
        changed: object = sorted(names) if len(names) <= MANY else "many"
        payload = {"ws": workspace_id, "runs": "many" if with_runs else {}, "workflows": changed}
        connection.execute(_NOTIFY, {"channel": LIVE, "payload": json.dumps(payload, separators=(",", ":"))})


def notify_rights(connection: Connection) -> None:
    """Tell all web processes, when this transaction commits, that what they remember of anybody's rights is void."""
    payload = json.dumps({"ws": 0, "runs": {}, "rights": True}, separators=(",", ":"))
    connection.execute(_NOTIFY, {"channel": LIVE, "payload": payload})


def live_payload(workspace_id: int, last_seq: Mapping[uuid.UUID, int]) -> str:
    """The payload that tells listeners which runs moved, and how far."""
    runs: object = {str(run): seq for run, seq in last_seq.items()} if len(last_seq) <= MANY else "many"
    return json.dumps({"ws": workspace_id, "runs": runs}, separators=(",", ":"))

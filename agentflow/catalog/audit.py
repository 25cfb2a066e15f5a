"""The audit log: who did what (ENGINE 2)."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text

_INSERT = text(
    "INSERT INTO audit_event (workspace_id, actor, action, subject, detail)"
    " VALUES (:workspace, :actor, :action, :subject, CAST(:detail AS json))"
)


def audit(connection: Connection, workspace: int, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Record an action in the transaction that does it: both happen or neither."""
    connection.execute(
        _INSERT,
        {"workspace": workspace, "actor": actor, "action": action, "subject": subject, "detail": json.dumps(detail)},
    )

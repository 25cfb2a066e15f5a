"""Answers kept by idempotency key, for a day."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

#: Two requests with one key follow each other: the second finds the first one's answer.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_FIND = text("""
SELECT request_hash, status, answer FROM idempotency_key
WHERE workspace_id = :workspace AND actor = :actor AND key = :key
  AND created_at > clock_timestamp() - make_interval(hours => :hours)
""")
_FORGET = text("""
DELETE FROM idempotency_key WHERE created_at <= clock_timestamp() - make_interval(hours => :hours)
""")
_KEEP = text("""
INSERT INTO idempotency_key (workspace_id, actor, key, request_hash, status, answer)
VALUES (:workspace, :actor, :key, :hash, :status, CAST(:answer AS json))
""")
HOURS = 24


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered."""

    request_hash: bytes
    status: int
    answer: dict[str, Any]


def find_answer(connection: Connection, workspace: int, actor: str, key: str) -> KeptAnswer | None:
    """The answer kept under a key; until the transaction ends nobody else gets past here with the key."""
    connection.execute(_LOCK, {"name": json.dumps([workspace, actor, key])})
    row = connection.execute(_FIND, {"workspace": workspace, "actor": actor, "key": key, "hours": HOURS}).one_or_none()
    return None if row is None else KeptAnswer(bytes(row.request_hash), row.status, row.answer)


def keep_answer(
    connection: Connection, workspace: int, actor: str, key: str, request_hash: bytes, status: int, answer: Any
) -> None:
    """Keep an answer, and forget those that are a day old."""
    connection.execute(_FORGET, {"hours": HOURS})
    connection.execute(
        _KEEP,
        {
            "workspace": workspace,
            "actor": actor,
            "key": key,
            "hash": request_hash,
            "status": status,
            "answer": json.dumps(answer),
        },
    )

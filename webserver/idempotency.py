"""`Idempotency-Key`: a request that is sent again gets the first one's answer (SEMANTICS section 10)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from flask import request
from sqlalchemy import Connection

from agentflow.access.idempotency import find_answer, keep_answer
from webserver.access import current_principal
from webserver.database import do
from webserver.errors import IdempotencyKeyReused, InvalidRequest

HEADER = "Idempotency-Key"
LONGEST = 200  #: Characters.


def once(work: Callable[[Connection], tuple[dict[str, Any], int]], asked: Any) -> tuple[dict[str, Any], int]:
    """Do `work` in a transaction; with the header at most once a day for this caller.

    Args:
        work: Answers with a document and a status.
        asked: What the request says, as JSON: the same key must come with the same.

    Raises:
        IdempotencyKeyReused: The key was used for another request.
        InvalidRequest: The key is too long or not printable.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return do(work)
    if not (0 < len(key) <= LONGEST and key.isascii() and key.isprintable()):
        raise InvalidRequest.at(f"header.{HEADER}", f"must be 1 to {LONGEST} printable characters")
    principal = current_principal()
    digest = hashlib.sha256(json.dumps([request.path, asked], sort_keys=True).encode()).digest()

    def guarded(connection: Connection) -> tuple[dict[str, Any], int]:
        found = find_answer(connection, principal.workspace_id, principal.name, key)
        if found is None:
            document, status = work(connection)
            keep_answer(connection, principal.workspace_id, principal.name, key, digest, status, document)
            return document, status
        if found.request_hash != digest:
            raise IdempotencyKeyReused(
                "This Idempotency-Key came with another request before.", hint="take a new key for a new request"
            )
        return found.answer, found.status

    return do(guarded)

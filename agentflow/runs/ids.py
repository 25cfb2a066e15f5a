"""Ids of runs and backfills as people give them."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text

from agentflow.errors import NotFound

_OWNED = text(
    "SELECT r.id FROM run r JOIN workspace s ON s.id = r.workspace_id WHERE r.id = :id AND s.name = :workspace"
)


def parse_run_id(text: str) -> uuid.UUID:
    """Read a run id.

    Raises:
        NotFound: It is not a UUID, so no run can have it.
    """
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise NotFound(f"There is no run {text!r}.", hint="`agentflow runs list` shows run ids") from error


def find_run(connection: Connection, run_id: str, *, workspace: str) -> uuid.UUID:
    """The id of a run of this workspace; other tenants' runs are not there at all.

    Raises:
        NotFound: The workspace has no such run.
    """
    key = parse_run_id(run_id)
    if connection.scalar(_OWNED, {"id": key, "workspace": workspace}) is None:
        raise no_run(run_id)
    return key


def no_run(run_id: str | uuid.UUID) -> NotFound:
    """The error for a run that is not there."""
    return NotFound(f"There is no run {run_id}.", hint="`agentflow runs list` shows the newest")


def parse_backfill_id(text: str) -> uuid.UUID:
    """Read the id of a backfill.

    Raises:
        NotFound: It is not a UUID, so no backfill can have it.
    """
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise NotFound(f"There is no backfill {text!r}.", hint="`agentflow backfill list` shows their ids") from error

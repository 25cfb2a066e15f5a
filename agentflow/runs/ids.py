"""Run ids as people give them."""

from __future__ import annotations

import uuid

from agentflow.errors import NotFound


def parse_run_id(text: str) -> uuid.UUID:
    """Read a run id.

    Raises:
        NotFound: It is not a UUID, so no run can have it.
    """
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise NotFound(f"There is no run {text!r}.", hint="`agentflow runs list` shows run ids") from error

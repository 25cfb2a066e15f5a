"""The answer to "why is it not running", as a document."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from agentflow.runs.address import resolve_address
from agentflow.runs.why.reading import read_facts
from agentflow.runs.why.reasons import explain


def why(connection: Connection, run_id: str, address: str, *, workspace: str) -> dict[str, Any]:
    """Everything that keeps a node run from going on, the most important first, each with what to do.

    Raises:
        UsageError: `address` is not an address.
        NotFound: There is no such run or node.
    """
    place = resolve_address(connection, run_id, address, workspace=workspace)
    facts = read_facts(connection, place, address)
    reasons = explain(facts)
    return {
        "run": str(place.run_id),
        "node": address,
        "run_state": facts.run.state.value,
        "state": facts.node.state.value if facts.node is not None else None,
        "summary": reasons[0].fact,
        "reasons": [reason.as_document() for reason in reasons],
    }

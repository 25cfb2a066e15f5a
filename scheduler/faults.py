"""Whose fault it is that a node could not be decided: nothing but its own may fail it for good."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import is_database, is_over_data
from scheduler.evaluator import EvaluatorUnavailable


def is_for_all(error: BaseException) -> bool:
    """Whether it would meet every node now: the service pauses, and the same will do later."""
    return isinstance(error, EvaluatorUnavailable) or is_database(error)


def is_own(error: BaseException) -> bool:
    """Whether the node that was decided alone is at fault. Else, as without memory or a right, it comes up again."""
    return not isinstance(error, MemoryError | DBAPIError) or is_over_data(error)

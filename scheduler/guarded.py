"""Calls of executors for the loop: one that fails holds up neither the loop nor the other executors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentflow.workload import ErrorInfo, Finished, Outcome, Workload
from executors.base import Executor

log = logging.getLogger(__name__)


def free_slots(executors: Mapping[str, Executor]) -> dict[tuple[str, bool], int]:
    """Free slots by executor, and of its I/O lanes (True) if it has any; one that cannot tell gets nothing."""
    slots: dict[tuple[str, bool], int] = {}
    for name, executor in executors.items():
        try:
            slots[name, False] = executor.slots_free
            # Not by isinstance: for a protocol that takes longer than all the rest of this, at every claim.
            lanes: int | None = getattr(executor, "io_slots_free", None)
            if lanes is not None:
                slots[name, True] = lanes
        except Exception:
            log.exception("executor_failed", extra={"executor": name})
            slots[name, False] = 0
    return slots


def submit(name: str, executor: Executor, workloads: Sequence[Workload]) -> list[Finished]:
    """Hand workloads over; the ends of those that were not taken, which count as losses."""
    try:
        executor.submit(workloads)
    except Exception as error:
        log.exception("executor_failed", extra={"executor": name})
        info = ErrorInfo(type="Refused", message=f"the executor did not take it: {error}")
        now = datetime.now(UTC)
        return [Finished(each.attempt_id, each.token, Outcome.REFUSED, None, now, None, info) for each in workloads]
    return []


def drain(name: str, executor: Executor) -> None:
    """Ask for what has not begun; an executor that cannot give it back runs it to its end."""
    try:
        give_back = getattr(executor, "drain", None)
        if give_back is not None:
            give_back()
    except Exception:
        log.exception("executor_failed", extra={"executor": name})


def cancel(name: str, executor: Executor, attempt_ids: Sequence[str]) -> None:
    """Ask for the end of attempts; the next survey asks again."""
    try:
        executor.cancel(attempt_ids)
    except Exception:
        log.exception("executor_failed", extra={"executor": name})

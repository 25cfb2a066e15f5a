"""What a due trigger row does now, and when it is due again. Pure: the scheduler's SQL goes around it.

A row is due at `next_fire_at`, which is a logical date plus its jitter. Fires before `next_fire_at` are history and
never come back: a row that was paused or whose trigger changed gets a new `next_fire_at` by `first_fire_at`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from agentflow.triggers.base import Trigger
from agentflow.triggers.config import build, read_jitter
from agentflow.triggers.missed import Delay, due_fires, latest_fire

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A stored trigger, as the planner needs it."""

    id: int | str  #: Also the seed of its jitter, so that equal triggers of two workflows spread.
    config: Mapping[str, Any]  #: The trigger of the workflow file.
    next_fire_at: datetime | None  #: When it is due next; None when it never fires again.
    last_logical: datetime | None = None  #: Its latest fire, skipped ones included; None before the first.
    catchup: bool = False  #: Make up every missed fire, not the latest one alone.
    paused: bool = False  #: The trigger or its workflow is.


@dataclass(frozen=True, slots=True)
class FirePlan:
    """What to do with a row."""

    fires: tuple[datetime, ...]  #: Logical dates to start runs for, oldest first.
    next_fire_at: datetime | None  #: The row's new value.
    skipped: datetime | None = None  #: A logical date to record as skipped, because too many runs wait.
    held: bool = False  #: More fires are due, but too many runs wait: `next_fire_at` stays in the past.


def plan_fires(row: TriggerRow, now: datetime, *, limit: int = 100, room: int | None = None) -> FirePlan:
    """Decide what a row fires at `now`.

    Args:
        row: The stored trigger.
        now: The database's clock, with a time zone.
        limit: The most runs to start at once; the row stays due for the rest.
        room: How many more runs of the workflow may be queued; None is any number.

    Raises:
        InvalidTrigger: The stored trigger cannot be used, for instance because its time zone is unknown here.
    """
    if row.next_fire_at is None or row.next_fire_at > now:
        return FirePlan((), row.next_fire_at)
    now = now.astimezone(UTC)  # arithmetic on a zoned time goes wrong where the clock is put back
    if row.paused:
        return FirePlan((), first_fire_at(row.id, row.config, now))
    trigger, delay = build(row.config), _delay_of(row.id, row.config)
    seen = _last_history(trigger, delay, row)
    allowed = limit if room is None else min(limit, room)
    if row.catchup:
        fires = tuple(islice(due_fires(trigger, seen, now, delay), max(allowed, 0)))
        next_fire_at = _due(trigger.next_fire(fires[-1] if fires else seen), delay)
        is_due = next_fire_at is not None and next_fire_at <= now
        return FirePlan(fires, next_fire_at, held=is_due and room is not None and len(fires) >= room)
    latest = _latest_due(trigger, seen, now, delay, read_jitter(row.config))
    next_fire_at = _due(trigger.next_fire(latest or seen), delay)
    if latest is None:
        return FirePlan((), next_fire_at)
    return FirePlan((latest,), next_fire_at) if allowed > 0 else FirePlan((), next_fire_at, skipped=latest)


def first_fire_at(row_id: int | str, config: Mapping[str, Any], after: datetime) -> datetime | None:
    """The `next_fire_at` of a trigger that begins, changes or is unpaused at `after`; None when it never fires.

    Raises:
        InvalidTrigger: The trigger has no clock or is not valid.
    """
    return _due(build(config).next_fire(after), _delay_of(row_id, config))


def _due(logical: datetime | None, delay: Delay) -> datetime | None:
    return logical + delay(logical) if logical is not None else None


def _delay_of(row_id: int | str, config: Mapping[str, Any]) -> Delay:
    """Jitter derived from trigger and logical date, so that asking again gives the same."""
    width = read_jitter(config)

    def delay(logical: datetime) -> timedelta:
        if not width:
            return width
        digest = hashlib.sha256(f"{row_id} {logical.isoformat()}".encode()).digest()
        return width * (int.from_bytes(digest[:6], "big") / 2**48)

    return delay


def _last_history(trigger: Trigger, delay: Delay, row: TriggerRow) -> datetime:
    """An instant with all history at or before it and every fire still to come after it."""
    assert row.next_fire_at is not None
    seen = row.next_fire_at.astimezone(UTC) - read_jitter(row.config) - _MICROSECOND
    if row.last_logical is not None:
        seen = max(seen, row.last_logical)
    fire = trigger.next_fire(seen) if "jitter" in row.config else None
    while fire is not None and fire + delay(fire) < row.next_fire_at:
        seen = fire
        fire = trigger.next_fire(seen)
    return seen


def _latest_due(trigger: Trigger, seen: datetime, now: datetime, delay: Delay, jitter: timedelta) -> datetime | None:
    """The latest fire whose time, delay included, has come."""
    latest = latest_fire(trigger, seen, now - jitter)  # due whatever their delay
    if not jitter:
        return latest
    for fire in due_fires(trigger, latest or seen, now, delay):
        latest = fire
    return latest

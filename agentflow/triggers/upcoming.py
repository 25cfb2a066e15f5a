"""The next fire times of several triggers, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from agentflow.triggers.base import Note
from agentflow.triggers.config import build, describe, trigger_identity
from agentflow.triggers.moments import read_moment
from agentflow.triggers.zones import load_zone

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire to come."""

    at: datetime  #: The logical date, in UTC: before jitter.
    trigger: str  #: What to call the trigger.
    note: Note | None  #: How a clock change concerns it.
    identity: str
    paused: bool  #: The trigger is: it will not fire then unless somebody unpauses it.


def upcoming(triggers: Iterable[Mapping[str, Any]], count: int, from_: datetime | str) -> list[Fire]:
    """The first `count` fires at or after `from_`, whether or not a trigger is paused.

    A text without an offset means that time in each trigger's own zone.

    Raises:
        InvalidTrigger: One of the triggers has no clock or is not valid, or `from_` is no moment.
    """
    return list(islice(heapq.merge(*(_fires(trigger, from_) for trigger in triggers), key=_order), count))


def _order(fire: Fire) -> datetime:
    return fire.at


def _fires(config: Mapping[str, Any], from_: datetime | str) -> Iterator[Fire]:
    trigger, name, identity = build(config), describe(config), trigger_identity(config)
    zone = load_zone(config.get("timezone") or "UTC")
    start = read_moment(from_, zone, path="from")[0]
    at = trigger.next_fire(start.astimezone(UTC) - _MICROSECOND)
    while at is not None:
        yield Fire(at, name, trigger.note(at), identity, bool(config.get("paused", False)))
        at = trigger.next_fire(at)

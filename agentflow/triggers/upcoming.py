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

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire to come."""

    at: datetime  #: The logical date, in UTC: before jitter.
    trigger: str  #: What to call the trigger.
    note: Note | None  #: How a clock change concerns it.
    identity: str


def upcoming(triggers: Iterable[Mapping[str, Any]], count: int, from_: datetime) -> list[Fire]:
    """The first `count` fires at or after `from_`, whether or not a trigger is paused.

    Raises:
        InvalidTrigger: One of the triggers has no clock or is not valid.
    """
    return list(islice(heapq.merge(*(_fires(trigger, from_) for trigger in triggers), key=_order), count))


def _order(fire: Fire) -> datetime:
    return fire.at


def _fires(config: Mapping[str, Any], from_: datetime) -> Iterator[Fire]:
    trigger, name, identity = build(config), describe(config), trigger_identity(config)
    at = trigger.next_fire(from_.astimezone(UTC) - _MICROSECOND)
    while at is not None:
        yield Fire(at, name, trigger.note(at), identity)
        at = trigger.next_fire(at)

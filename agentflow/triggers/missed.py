"""Which fires are due, after a pause of the scheduler of any length. Pure, and cheap however much was missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice

from agentflow.triggers.base import Trigger

#: How long a fire is put off, by its logical date.
Delay = Callable[[datetime], timedelta]


def _no_delay(_: datetime) -> timedelta:
    return timedelta(0)


def missed_fires(
    trigger: Trigger, last_fire: datetime, now: datetime, *, catchup: bool, limit: int = 100
) -> list[datetime]:
    """The fires in `(last_fire, now]` to make up, oldest first.

    With `catchup` all of them, `limit` at once (ask again from the last one); without it the latest one alone. A clock
    that went back behind `last_fire` has none.
    """
    if catchup:
        return list(islice(due_fires(trigger, last_fire, now), limit))
    latest = latest_fire(trigger, last_fire, now)
    return [latest] if latest is not None else []


def due_fires(trigger: Trigger, after: datetime, now: datetime, delay: Delay = _no_delay) -> Iterator[datetime]:
    """The fires later than `after` whose time, delay included, has come; in order, so one that waits holds the rest."""
    fire = trigger.next_fire(after)
    while fire is not None and fire + delay(fire) <= now:
        yield fire
        fire = trigger.next_fire(fire)


def latest_fire(trigger: Trigger, after: datetime, until: datetime) -> datetime | None:
    """The last fire in `(after, until]`, found by halving: a year of minutes costs twenty questions, not 500,000."""
    latest, end = None, until
    fire = trigger.next_fire(after) if after < until else None
    while fire is not None and fire <= until:
        latest = fire
        following = trigger.next_fire(latest)
        if following is None or following > until:  # as a rule one fire is due, not a year of them
            return latest
        middle = latest + (end - latest) / 2
        fire = trigger.next_fire(middle)
        if fire is None or fire > until:
            end = middle
            fire = following
    return latest

"""Splitting the time between a node's end and the next one's start into what was done in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESULT = "result: runner -> scheduler"
WAKE = "wake-up of the loop"
PYTHON = "Python between the statements"
START = "start: scheduler -> runner"
COMMIT = "COMMIT"


@dataclass(frozen=True, slots=True)
class Hop:
    """The moments of one hop, in seconds of one clock."""

    finished: float  #: The node ended, stamped in its runner.
    reported: float  #: The scheduler has its result.
    submitted: float  #: The scheduler hands the next node over.
    started: float  #: The next node starts, stamped in its runner.


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the database."""

    name: str
    start: float  #: Seconds of the same clock.
    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What one thing takes of a hop."""

    name: str
    calls: float  #: Per hop.
    milliseconds: float  #: Mean per hop, so that the pieces add up to the whole.
    share: float  #: Of the whole hop, 0 to 1.


def split(hop: Hop, calls: Sequence[Call]) -> list[tuple[str, float]]:
    """Name and milliseconds of each piece of a hop, in order; together they are the whole gap.

    Calls that began outside the scheduler's part of the hop are left out.
    """
    inside = sorted((call for call in calls if hop.reported <= call.start < hop.submitted), key=lambda call: call.start)
    first = inside[0].start if inside else hop.submitted
    database = sum(call.seconds for call in inside)
    pieces = [(RESULT, hop.reported - hop.finished), (WAKE, first - hop.reported)]
    pieces += [(call.name, call.seconds) for call in inside]
    pieces += [(PYTHON, hop.submitted - first - database), (START, hop.started - hop.submitted)]
    return [(name, seconds * 1000) for name, seconds in pieces]


def summarise(hops: Sequence[Sequence[tuple[str, float]]]) -> list[Piece]:
    """The mean of each piece over all hops, in order of first appearance.

    Raises:
        ValueError: There are no hops.
    """
    if not hops:
        raise ValueError("no hops: nothing was measured")
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for hop in hops:
        for name, milliseconds in hop:
            total[name] = total.get(name, 0.0) + milliseconds
            count[name] = count.get(name, 0) + 1
    whole = sum(total.values())
    return [
        Piece(name, count[name] / len(hops), spent / len(hops), spent / whole if whole else 0.0)
        for name, spent in total.items()
    ]

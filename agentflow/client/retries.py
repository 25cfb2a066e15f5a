"""Whether, and after how long, a request that failed is sent again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

FIRST, LONGEST = 0.2, 2.0  #: Seconds before the first repeat, doubled up to the longest.
MOST_ASKED = 60.0  #: Seconds that a server may ask us to wait.
REPEATABLE = frozenset(
    {"GET", "HEAD", "PUT"}
)  #: Doing it twice does it once; DELETE is not told apart from "not found".


class Outcome(Enum):
    """How a request failed."""

    NOT_SENT = auto()  #: No connection: the server knows nothing of it.
    NO_ANSWER = auto()  #: It may have been done.
    BUSY = auto()  #: 429: refused before anything was done.
    AWAY = auto()  #: 502, 503, 504: it may have been done.


OUTCOMES = {429: Outcome.BUSY, 502: Outcome.AWAY, 503: Outcome.AWAY, 504: Outcome.AWAY}


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed."""

    outcome: Outcome
    repeatable: bool  #: Whether doing it twice does no harm.
    tries: int  #: How often it was sent.
    elapsed: float  #: Seconds since it was sent first.
    asked: float | None = None  #: Seconds that `Retry-After` says.


def pause(failure: Failure, patience: float) -> float | None:
    """Seconds to wait before it is sent again; None: it is not.

    Args:
        failure: What happened.
        patience: Seconds that may pass for a server that is away; one that asks us to wait is believed for longer.
    """
    if not failure.repeatable and failure.outcome not in (Outcome.NOT_SENT, Outcome.BUSY):
        return None
    if failure.asked is not None and failure.outcome in (Outcome.BUSY, Outcome.AWAY):
        return failure.asked if failure.elapsed + failure.asked <= max(MOST_ASKED, patience) else None
    wait = min(FIRST * 2.0 ** (failure.tries - 1), LONGEST)
    return wait if failure.elapsed + wait <= patience else None


def retry_after(header: str | None) -> float | None:
    """The seconds that a `Retry-After` header names; dates are not used by AgentFlow."""
    if header is None or not header.strip().isdigit():
        return None
    return float(header)

"""How many messages a socket may send: a page that comes back joins its rooms at once, nobody goes on like that."""

from __future__ import annotations

import math
from typing import Literal

BURST = 200  #: Messages at once: leaving all rooms and joining as many others.
RATE = 20  #: A second, for as long as one likes.
EXCESS = 200  #: Refused ones in a row, at that rate, after which the socket is closed.
_ROUNDING = 1e-6

Verdict = Literal["taken", "refused", "over"]


class Allowance:
    """Of one socket: a bucket that every message fills and time empties."""

    __slots__ = ("_at", "_level")

    def __init__(self, now: float) -> None:
        """`now`: any clock in seconds that only goes forwards, as in the methods."""
        self._at = now
        self._level = 0.0

    def take(self, now: float) -> Verdict:
        """What is to be done with a message; refused ones count, so that who is refused has to pause."""
        self._level = max(0.0, self._level - (now - self._at) * RATE)
        self._at = now
        if self._level >= BURST + EXCESS:
            return "over"
        self._level += 1
        return "taken" if self._level <= BURST + _ROUNDING else "refused"

    @property
    def wait(self) -> int:
        """Seconds of silence after which a message is taken again."""
        return max(0, math.ceil((self._level + 1 - BURST) / RATE))

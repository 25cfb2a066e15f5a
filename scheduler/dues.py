"""When waits come due: the loop hears of these only when it looks, which it does seldom."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from datetime import datetime
from typing import Final

MOST: Final = (
    10_000  #: Times that are kept, the first ones; what comes due later is found by the look every few seconds.
)
CLOCKS_APART: Final = 0.1  #: Seconds that the database's clock may be behind ours when a wait comes due,
LOOK_AGAIN: Final = 0.002  #: and those before the first look again meanwhile; each one after it waits twice as long.


class Dues:
    """Times to look at, by the database's clock and by ours. For one thread.

    A time is forgotten when the database, by its own clock, has given what was due by then. If it gave nothing, its clock
    may be behind: it is asked a few times more. After that what the time was about is due to others, or gone, and to look
    on would be to spin.
    """

    def __init__(self) -> None:
        self._times: list[tuple[float, datetime]] = []  # in order of time.monotonic(), which comes first
        self._known: set[datetime] = set()

    def note(self, dues: Iterable[datetime], now: datetime, clock: float) -> None:
        """Keep these times.

        Args:
            dues: By the database's clock, as `now` is.
            now: The present.
            clock: `time.monotonic()` at the same moment.
        """
        for due in set(dues) - self._known:
            self._known.add(due)
            bisect.insort(self._times, (clock + max(0.0, (due - now).total_seconds()), due))
        self._forget(slice(MOST, None), [])

    def found(self, until: datetime, clock: float) -> None:
        """Forget what was due by then: something was found, and with it all that there was."""
        near = slice(bisect.bisect_right(self._times, clock + CLOCKS_APART, key=_ours))
        self._forget(near, [one for one in self._times[near] if one[1] > until])

    def pause(self, clock: float, longest: float) -> float:
        """Seconds until the next look, at most `longest`; what should have been found a while ago is forgotten."""
        self._forget(slice(bisect.bisect_left(self._times, clock - CLOCKS_APART, key=_ours)), [])
        passed = bisect.bisect_right(self._times, clock, key=_ours)
        looks = [longest]
        if passed:
            looks.append(clock - self._times[passed - 1][0])
        if passed < len(self._times):
            looks.append(self._times[passed][0] - clock)
        return max(LOOK_AGAIN, min(looks))

    def _forget(self, part: slice, but: list[tuple[float, datetime]]) -> None:
        self._known.difference_update(due for _, due in self._times[part])
        self._known.update(due for _, due in but)
        self._times[part] = but


def _ours(one: tuple[float, datetime]) -> float:
    return one[0]

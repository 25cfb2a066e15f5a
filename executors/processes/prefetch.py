"""How far to look ahead: pure arithmetic on how long attempts take.

Looking ahead hides the scheduler's round trip when attempts take microseconds, and would only bind work to the wrong
place when they take long.
"""

from __future__ import annotations

from typing import Final

_AHEAD: Final = 0.040  # seconds of work to hold per process
_SHORT: Final = 0.005  # seconds; attempts that take longer need no queue
_QUEUE_MAX: Final = 64  # workloads per process
_PIPELINE: Final = 0.003  # seconds of work inside a runner's own queue
_PIPELINE_MAX: Final = 16  # workloads, the running one included
_WEIGHT: Final = 0.1  # of the newest duration in the average
_FLOOR: Final = 50e-6  # seconds; no attempt is faster


class Prefetch:
    """Follows the durations of attempts."""

    def __init__(self) -> None:
        self._average: float | None = None

    def observe(self, duration: float) -> None:
        """An attempt took so many seconds; a long one counts at once, short ones little by little."""
        duration = max(duration, _FLOOR)
        if self._average is None or duration > self._average * 20:
            self._average = duration
        else:
            self._average += _WEIGHT * (duration - self._average)

    @property
    def queue(self) -> int:
        """Workloads to hold per process beside the running one."""
        if self._average is None or self._average >= _SHORT:
            return 0
        return min(_QUEUE_MAX, int(_AHEAD / self._average))

    @property
    def pipeline(self) -> int:
        """Workloads that one runner may hold, the running one included."""
        if self._average is None:
            return 1
        return max(1, min(_PIPELINE_MAX, int(_PIPELINE / self._average)))

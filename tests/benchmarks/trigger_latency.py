"""From a trigger in another process to the start of the first node, on an idle system."""

from __future__ import annotations

import time

import _workflows
from _report import Report, median, percentile
from _single import single
from _system import System, first_start
from latencies import notify_milliseconds

WARM_UP = 5  # triggers: statements are prepared at their third use
PAUSE = 0.15  # seconds between triggers, so that each meets an idle system


def measure_starts(system: System, name: str, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first start: from before the trigger's call, and from its return, when it is committed."""
    called, committed = [], []
    for _ in range(rounds):
        time.sleep(PAUSE)
        before = time.time()
        run_id = system.trigger(name)
        after = time.time()
        system.wait([run_id])
        start = first_start(system.show(run_id))
        called.append((start - before) * 1000)
        committed.append((start - after) * 1000)
    return called, committed


def measure(system: System, report: Report, *, rounds: int = 30) -> None:
    """Add median and p95 from the call, and the scheduler's share of it."""
    name = system.apply(_workflows.independent("bench-trigger", 1, _workflows.python()))
    measure_starts(system, name, WARM_UP)
    called, committed = measure_starts(system, name, rounds)
    limit = notify_milliseconds(system.url)
    of = "insert + NOTIFY, claim"
    report.add("trigger to first start, median", median(called), "ms", goal=15, limit=limit, limit_of=of)
    report.add("trigger to first start, p95", percentile(called, 0.95), "ms")
    report.add("  of it after the commit, median", median(committed), "ms")


if __name__ == "__main__":
    single(measure)

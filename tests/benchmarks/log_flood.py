"""A node that prints as fast as it can: the gaps of another run's chain meanwhile."""

from __future__ import annotations

import _workflows
from _report import Report, median
from _single import single
from _system import System, wait_until
from chain import measure_gaps
from sqlalchemy import text

#: Fills a pipe with lines, or (with `where` = /dev/null) uses the processor alike without logging anything.
PRINT = """
def main(where, seconds):
    import time
    line = "x" * 200 + "\\n"
    end = time.monotonic() + seconds
    with open(where, "w", buffering=1) as out:
        while time.monotonic() < end:
            for _ in range(1000):
                out.write(line)
"""
SECONDS = 60.0  #: How long it would print if it were not cancelled.

_RUNNING = text("SELECT count(*) FROM node_run WHERE run_id = :run AND state = 'running'")


def measure(system: System, report: Report, *, length: int = 40, rounds: int = 4) -> None:
    """Add how many times longer the gaps are beside the flood; a node that only uses the processor tells the rest."""
    chained = system.apply(_workflows.chain("bench-beside", length, _workflows.fibo(10)))
    system.run(chained)
    quiet = median(measure_gaps(system, chained, rounds))
    busy = _median_beside(system, chained, rounds, "/dev/null")
    flood = _median_beside(system, chained, rounds, "/dev/stdout")
    report.add("gap beside a log flood, median", flood, "ms", limit=busy, limit_of="with it to /dev/null")
    report.add("  beside a flood / alone", flood / quiet, "times", goal=3)
    report.add("  beside a busy processor / alone", busy / quiet, "times")


def _median_beside(system: System, chained: str, rounds: int, where: str) -> float:
    node = _workflows.python(PRINT, where=where, seconds=SECONDS)
    other = system.trigger(system.apply(_workflows.independent("bench-flood", 1, node)))
    try:
        wait_until(lambda: system.do(lambda c: c.scalar(_RUNNING, {"run": other})) == 1, "the flood runs")
        return median(measure_gaps(system, chained, rounds))
    finally:
        system.cancel([other])


if __name__ == "__main__":
    single(measure)

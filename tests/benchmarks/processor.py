"""10 x fibo(33) side by side: what the scheduling adds to work that fills the processors."""

from __future__ import annotations

import _workflows
import machine_limits as limits
from _report import Report
from _single import single
from _system import System, last_finish, seconds


def measure(system: System, report: Report, *, n: int = 33, count: int = 10) -> None:
    """Add the time from the trigger to the last end, beside that of a bare pool with a process a core."""
    name = system.apply(_workflows.independent("bench-processor", count, _workflows.fibo(n)))
    run = system.run(name)
    total = last_finish(run) - seconds(run["created_at"])
    limit = limits.pool_fibo_seconds(n, calls=count, workers=limits.cores())
    report.add(f"{count} x fibo({n})", total, "s", limit=limit, limit_of="bare process pool")


if __name__ == "__main__":
    single(measure)

"""1 -> 1,000 -> 1: node runs a second, of no-op nodes and of empty python functions."""

from __future__ import annotations

import _workflows
import machine_limits as limits
from _report import Report, median
from _single import single
from _system import System, last_finish, seconds

BATCH = 32  # node runs a transaction, of the bare SQL


def measure(system: System, report: Report, *, width: int = 1000, rounds: int = 5) -> None:
    """Add the median rate of each kind over all rounds but a first one for the warm-up."""
    sql = limits.sql_node_runs_per_second(system.url, limits.fan(width), batch=BATCH)
    pool = limits.pool_calls_per_second(width, workers=limits.cores())
    kinds = {"no-op": _workflows.noop(), "python": _workflows.python()}
    for kind, node in kinds.items():
        name = system.apply(_workflows.fan(f"bench-fan-{kind}", width, node))
        system.run(name)
        rate = median([_rate(system, name) for _ in range(rounds)])
        limit, of = (sql, f"bare SQL by {BATCH}") if kind == "no-op" else (pool, "bare process pool")
        what = f"fan of {width:,}, {kind}"
        report.add(what, rate, "node runs/s", goal=1500, better="higher", limit=limit, limit_of=of)


def _rate(system: System, name: str) -> float:
    run = system.run(name)
    return len(run["nodes"]) / (last_finish(run) - seconds(run["created_at"]))


if __name__ == "__main__":
    single(measure)

"""50 runs of 1 -> 8 -> 1 triggered at once: throughput of many small runs, and how long one of them takes among others."""

from __future__ import annotations

import _workflows
import machine_limits as limits
from _report import Report, median, percentile
from _single import single
from _system import System, last_finish, seconds

BATCH = 32  # node runs a transaction, of the bare SQL


def measure(system: System, report: Report, *, runs: int = 50, width: int = 8) -> None:
    """Add the rate from the first trigger to the last end, and the duration of a run."""
    name = system.apply(_workflows.fan("bench-burst", width, _workflows.noop()))
    system.run(name)
    ids = [system.trigger(name) for _ in range(runs)]
    system.wait(ids)
    done = [system.show(run_id) for run_id in ids]
    began = min(seconds(run["created_at"]) for run in done)
    nodes = sum(len(run["nodes"]) for run in done)
    rate = nodes / (max(last_finish(run) for run in done) - began)
    limit = limits.sql_node_runs_per_second(system.url, _edges(runs, width), batch=BATCH)
    what = f"{runs} runs of 1-{width}-1 at once"
    report.add(what, rate, "node runs/s", better="higher", limit=limit, limit_of=f"bare SQL by {BATCH}")
    took = [(last_finish(run) - seconds(run["created_at"])) * 1000 for run in done]
    report.add("  one of them, median", median(took), "ms")
    report.add("  one of them, p95", percentile(took, 0.95), "ms")


def _edges(runs: int, width: int) -> list[tuple[int, int]]:
    nodes = width + 2
    return [(run * nodes + up, run * nodes + down) for run in range(runs) for up, down in limits.fan(width)]


if __name__ == "__main__":
    single(measure)

"""50,000 ready nodes blocked by a full pool: how much later an unrelated node starts."""

from __future__ import annotations

from functools import partial

import _workflows
from _report import Report, median, percentile
from _single import single
from _system import ACTOR, System, wait_until
from sqlalchemy import text
from trigger_latency import WARM_UP, measure_starts

from agentflow import settings_store

POOL = "bench-narrow"
SLEEP = "import time\ndef main():\n    time.sleep(600)\n"

_READY = text("SELECT count(*) FROM node_run WHERE state = 'ready'")


def measure(system: System, report: Report, *, crowd: int = 50_000, rounds: int = 20) -> None:
    """Add the start of a lone node beside the crowd, and how much of that the crowd costs."""
    system.do(partial(settings_store.set_pool, name=POOL, slots=1, actor=ACTOR))
    lone = system.apply(_workflows.independent("bench-lone", 1, _workflows.python()))
    narrow = {"pool": POOL}
    holder = system.apply(_workflows.independent("bench-holder", 1, _workflows.python(SLEEP) | narrow))
    crowded = system.apply(_workflows.independent("bench-crowd", crowd, _workflows.noop() | narrow))
    measure_starts(system, lone, WARM_UP)
    quiet, _ = measure_starts(system, lone, rounds)
    open_runs = [system.trigger(holder)]
    try:
        wait_until(lambda: _used(system) == 1, "the pool is full")
        open_runs.append(system.trigger(crowded))
        wait_until(lambda: system.do(lambda c: c.scalar(_READY)) == crowd, f"{crowd:,} nodes are ready")
        beside, _ = measure_starts(system, lone, rounds)
        if system.do(lambda c: c.scalar(_READY)) != crowd:
            raise RuntimeError("the pool did not block the crowd")
    finally:
        system.cancel(open_runs)
    what = f"beside {crowd:,} blocked nodes"
    of = "without them"
    report.add(f"start {what}, median", median(beside), "ms", limit=median(quiet), limit_of=of)
    report.add(f"start {what}, p95", percentile(beside, 0.95), "ms", limit=percentile(quiet, 0.95), limit_of=of)
    report.add("  delay at the p95", max(0.0, percentile(beside, 0.95) - percentile(quiet, 0.95)), "ms", goal=50)


def _used(system: System) -> int:
    pools, _ = system.do(settings_store.list_pools)
    return int(next(pool["used"] for pool in pools if pool["name"] == POOL))


if __name__ == "__main__":
    single(measure)

"""Chain of 40 python nodes, fibo(10) each: the gap between a node's end and the next one's start."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import _workflows
from _processor_time import processor_seconds
from _report import Report, median, percentile
from _single import single
from _system import System, seconds
from latencies import call_milliseconds, hop_milliseconds


def gaps(run: Mapping[str, Any]) -> list[float]:
    """Milliseconds from each node's end to the next one's start, both stamped where the node ran."""
    return [
        (seconds(after["started_at"]) - seconds(before["finished_at"])) * 1000
        for before, after in pairwise(run["nodes"])
    ]


def measure_gaps(system: System, name: str, rounds: int) -> list[float]:
    """The gaps of some runs of a chain, one after the other."""
    return [gap for _ in range(rounds) for gap in gaps(system.run(name))]


def measure(system: System, report: Report, *, length: int = 40, rounds: int = 8) -> None:
    """Add median, p95 and maximum over all rounds but a first one for the warm-up, and what scheduler, nodes and Postgres
    spend on a hop.
    """
    name = system.apply(_workflows.chain("bench-chain", length, _workflows.fibo(10)))
    system.run(name)
    ours = [system.scheduler, *system.scheduler.children(recursive=True), *system.postgres()]
    before = processor_seconds(ours)
    found = measure_gaps(system, name, rounds)
    used = processor_seconds(ours) - before
    limit = hop_milliseconds(system.url) + call_milliseconds()
    what = f"chain of {length}, gap"
    report.add(f"{what}, median", median(found), "ms", goal=5, limit=limit, limit_of="bare SQL + a call")
    report.add(f"{what}, p95", percentile(found, 0.95), "ms", goal=15)
    report.add(f"{what}, max", max(found), "ms")
    report.add("  processor time of a hop", used * 1000 / len(found), "ms")


if __name__ == "__main__":
    single(measure)

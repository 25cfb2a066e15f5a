"""Many small runs with one scheduler and with two on the same machine and database, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import _workflows
from _report import Report, median
from _single import single
from _system import System, last_finish, seconds


def measure(system: System, report: Report, *, runs: int = 100, width: int = 8, pairs: int = 3) -> None:
    """Add the throughput with two schedulers beside that with one."""
    name = system.apply(_workflows.fan("bench-two", width, _workflows.noop()))
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(pairs):
        rates[1].append(_rate(system, name, runs))
        with another_scheduler(system):
            system.run(name)  # warm
            rates[2].append(_rate(system, name, runs))
    what = f"{runs} runs of 1-{width}-1, two schedulers"
    report.add(what, median(rates[2]), "node runs/s", better="higher", limit=median(rates[1]), limit_of="one scheduler")


def _rate(system: System, name: str, runs: int) -> float:
    ids = [system.trigger(name) for _ in range(runs)]
    system.wait(ids)
    done = [system.show(run_id) for run_id in ids]
    began = min(seconds(run["created_at"]) for run in done)
    return sum(len(run["nodes"]) for run in done) / (max(map(last_finish, done)) - began)


@contextmanager
def another_scheduler(system: System) -> Iterator[None]:
    """A second scheduler process on the database of the first, for a while."""
    other = System(system.home, system.url, system.dags)
    other.start_scheduler()
    try:
        yield
    finally:
        other.stop()


if __name__ == "__main__":
    single(measure)

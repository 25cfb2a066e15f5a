"""A run of 100,000 nodes in a database with 1,000,000 finished node runs: creation, cost of a node, cancelling.

The cost of a node is compared with a small run in an empty database, on a server and scheduler of its own that are idle
meanwhile: a slice of the large run here, a run of as many nodes there, in turn. A pool of 0 slots holds each back.
"""

from __future__ import annotations

import time
from functools import partial

import _workflows
from _report import Report, median
from _single import single
from _system import ACTOR, BenchmarkFailed, System, running_system, wait_until
from sqlalchemy import text

from agentflow import settings_store
from agentflow.runs import cancel_run
from tests.history_kit import fill_history

POOL = "bench-valve"
SLOTS = 128
DAYS = 75
TIMEOUT = 600.0  # seconds

_RUN = text("SELECT state, open_nodes FROM run WHERE id = CAST(:run AS uuid)")
_NOW = text("SELECT clock_timestamp()")
_BARE = [
    "CREATE TEMPORARY TABLE bare_node (run_id uuid, no int, state text, at timestamptz, PRIMARY KEY (run_id, no))",
    """
INSERT INTO bare_node SELECT gen_random_uuid(), n, 'ready', clock_timestamp() FROM generate_series(1, :nodes) AS n
""",
    "DROP TABLE bare_node",
]


def measure(
    system: System,
    report: Report,
    *,
    nodes: int = 100_000,
    history: tuple[int, int] = (25_000, 40),
    part: int = 3000,
    pairs: int = 5,
) -> None:
    """Add the time of the creation, the cost per node beside that in an empty database, and the time of a cancel."""
    runs, size = history
    fill_history(system.engine, now=system.do(lambda c: c.scalar(_NOW)), runs=runs, nodes=size, days=DAYS)
    with running_system(system.home.parent.parent) as empty:
        for one in (system, empty):
            _close(one)
            small = one.apply(_valved("bench-part", part))
            _let_through(one, _created(one, small)[0], part)  # warm
        large, seconds = _created(system, system.apply(_valved("bench-large", nodes)))
        what = f"{nodes:,} nodes"
        report.add(
            f"creation of a run of {what}", seconds, "s", goal=2, limit=_bare(system, nodes), limit_of="bare INSERT"
        )
        full, alone = [], []
        for _ in range(pairs):
            full.append(_let_through(system, large, part) / part * 1e6)
            alone.append(_let_through(empty, _created(empty, "bench-part")[0], part) / part * 1e6)
        ratio = median(full) / median(alone)
        name = f"a node of {what} after {runs * size:,}"
        report.add(name, median(full), "us", limit=median(alone), limit_of=f"{part:,} nodes, empty")
        report.add("  times the cost in an empty database", ratio, "", goal=1.2)
        spread = max(max(values) / min(values) for values in (full, alone))
        report.add("  largest by smallest of the same side", spread, "")
    begin = time.monotonic()
    system.do(partial(cancel_run, run_id=large, actor=ACTOR))
    report.add(f"cancel of what is left of {what}", time.monotonic() - begin, "s")
    wait_until(lambda: _look(system, large)[0] == "cancelled", "the large run ends", TIMEOUT)


def _valved(name: str, count: int) -> _workflows.Document:
    return _workflows.independent(name, count, _workflows.noop() | {"pool": POOL})


def _close(system: System) -> None:
    system.do(partial(settings_store.set_pool, name=POOL, slots=0, actor=ACTOR))


def _look(system: System, run_id: str) -> tuple[str, int]:
    state, still_open = system.do(lambda c: c.execute(_RUN, {"run": run_id}).one())
    return str(state), int(still_open)


def _created(system: System, name: str) -> tuple[str, float]:
    """A run whose nodes all wait at the closed pool, and the seconds from its trigger to its last node."""
    begin = time.monotonic()
    run_id = system.trigger(name)
    wait_until(lambda: _look(system, run_id)[0] == "running", "the run starts", TIMEOUT)
    return run_id, time.monotonic() - begin


def _let_through(system: System, run_id: str, count: int) -> float:
    """Open the pool until `count` nodes more have ended; the seconds that took. Afterwards nothing runs."""
    before = _look(system, run_id)[1]
    if before < count:
        raise BenchmarkFailed(f"only {before} nodes are left")
    begin = time.monotonic()
    system.do(partial(settings_store.set_pool, name=POOL, slots=SLOTS, actor=ACTOR))
    wait_until(lambda: _look(system, run_id)[1] <= before - count, f"{count} nodes end", TIMEOUT)
    took = time.monotonic() - begin
    done = before - _look(system, run_id)[1]
    _close(system)
    wait_until(lambda: system.do(_running) == 0, "what was claimed ends", TIMEOUT)
    return took * count / done


def _running(connection) -> int:
    query = text("SELECT count(*) FROM node_run WHERE state IN ('queued', 'running')")
    return int(connection.scalar(query) or 0)


def _bare(system: System, nodes: int) -> float:
    """Seconds of inserting as many rows into a table with nothing but a key."""
    create, fill, drop = _BARE
    with system.engine.begin() as connection:
        connection.execute(text(create))
        begin = time.monotonic()
        connection.execute(text(fill), {"nodes": nodes})
        took = time.monotonic() - begin
        connection.execute(text(drop))
    return took


if __name__ == "__main__":
    single(measure)

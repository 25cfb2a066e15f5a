"""What single steps cost here at best: a commit, a hop as bare SQL, a NOTIFY, a call of a warm process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from _report import median
from machine_limits import CLAIM, FINISH, chain, fill_graph, scratch, warm_pool

from agentflow.postgres import libpq_url

_CLAIM_TOKEN = "00000000-0000-4000-8000-000000000001"
_CHANNEL = "latencies"


def timed(action: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def commit_milliseconds(url: str, *, commits: int = 40) -> float:
    """Median of a transaction that changes one row: one round trip and one flush of the log to the disk."""
    with scratch(url) as connection:
        connection.execute("CREATE TABLE one (n int); INSERT INTO one VALUES (0)")
        return median([timed(lambda: connection.execute("UPDATE one SET n = n + 1")) for _ in range(commits)])


def round_trip_milliseconds(url: str, *, trips: int = 200) -> float:
    """Median of a statement that does nothing."""
    with scratch(url) as connection:
        return median([timed(lambda: connection.execute("SELECT 1")) for _ in range(trips)])


def hop_milliseconds(url: str, *, hops: int = 200) -> float:
    """Median of finishing a node of a chain and claiming the next one, in one transaction with one commit."""
    with scratch(url) as connection:
        fill_graph(connection, chain(hops + 1))
        claimed = [0]
        connection.execute(CLAIM, {"claim": _CLAIM_TOKEN, "batch": 1})

        def hop() -> None:
            with connection.transaction():
                connection.execute(FINISH, {"ids": claimed, "claim": _CLAIM_TOKEN})
                rows = connection.execute(CLAIM, {"claim": _CLAIM_TOKEN, "batch": 1}).fetchall()
                claimed[:] = [row[0] for row in rows]

        times = [timed(hop) for _ in range(hops)]
        if claimed != [hops]:
            raise RuntimeError(f"the chain ended at {claimed}, not at {hops}")
        return median(times)


def call_milliseconds(*, calls: int = 300) -> float:
    """Median of one no-op sent to a warm process and its answer, one at a time."""
    with warm_pool(1) as pool:
        return median([timed(lambda: pool.submit(int).result()) for _ in range(calls)])


def notify_milliseconds(url: str, *, rounds: int = 40) -> float:
    """Median from before a committed insert with NOTIFY until another connection has woken and committed an update.

    That is what a trigger needs at least: the run is durable, the scheduler hears of it, the claim is durable.
    """
    connect = partial(psycopg.Connection[tuple[Any, ...]].connect, autocommit=True)
    heard: queue.Queue[float] = queue.Queue()
    ready = threading.Event()
    with scratch(url) as connection:
        schema = connection.execute("SELECT current_schema()").fetchone()
        assert schema is not None
        connection.execute("CREATE TABLE asked (n int PRIMARY KEY, claimed bool NOT NULL DEFAULT false)")

        def claim() -> None:
            with connect(libpq_url(url)) as listener, connect(libpq_url(url)) as worker:
                worker.execute(f"SET search_path TO {schema[0]}")
                listener.execute(f"LISTEN {_CHANNEL}")
                ready.set()
                for note in listener.notifies(timeout=30, stop_after=rounds):
                    worker.execute("UPDATE asked SET claimed = true WHERE n = %s", [int(note.payload)])
                    heard.put(time.perf_counter())

        thread = threading.Thread(target=claim, daemon=True)
        thread.start()
        if not ready.wait(10):
            raise RuntimeError("the listener does not listen")
        times = []
        for number in range(rounds):
            start = time.perf_counter()
            with connection.transaction():
                connection.execute("INSERT INTO asked (n) VALUES (%s)", [number])
                connection.execute("SELECT pg_notify(%s, %s)", [_CHANNEL, str(number)])
            times.append((heard.get(timeout=30) - start) * 1000)
        thread.join()
    return median(times)

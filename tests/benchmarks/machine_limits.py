"""What this machine can do at best: the state changes of a run as bare SQL, and bare process pools.

The SQL limit claims and finishes nodes in batches on tables with the fewest columns that can carry the rules (state,
open dependencies, a claim that fences). They are ordinary tables in a schema of their own, dropped afterwards:
temporary ones would not write WAL, and so would show a limit that no durable scheduler can reach.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import psycopg
from _report import Report
from psycopg import sql

BLOCKED, READY, CLAIMED, DONE = range(4)

SCHEMA = """
CREATE TABLE node (id int PRIMARY KEY, state smallint NOT NULL, open_needs int NOT NULL, claim uuid, output jsonb)
  WITH (fillfactor = 85);
CREATE INDEX node_ready ON node (id) WHERE state = 1;
CREATE TABLE edge (up int NOT NULL, down int NOT NULL, PRIMARY KEY (up, down));
"""

CLAIM = """
UPDATE node SET state = 2, claim = %(claim)s
  FROM (SELECT id FROM node WHERE state = 1 ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED) AS due
 WHERE node.id = due.id RETURNING node.id
"""

FINISH = """
WITH finished AS (
  UPDATE node SET state = 3, output = 'null' WHERE id = ANY(%(ids)s) AND state = 2 AND claim = %(claim)s RETURNING id
), counts AS (
  SELECT down, count(*) AS n FROM edge JOIN finished ON up = finished.id GROUP BY down
), opened AS (
  UPDATE node SET open_needs = open_needs - n, state = CASE WHEN open_needs = n THEN 1 ELSE state END
    FROM counts WHERE node.id = counts.down
)
SELECT count(*) FROM finished
"""


def fan(width: int) -> list[tuple[int, int]]:
    """The edges of 1 -> width -> 1; nodes are numbered from 0."""
    return [(0, n) for n in range(1, width + 1)] + [(n, width + 1) for n in range(1, width + 1)]


def chain(length: int) -> list[tuple[int, int]]:
    """The edges of a chain; nodes are numbered from 0."""
    return [(n, n + 1) for n in range(length - 1)]


def sql_node_runs_per_second(url: str, edges: list[tuple[int, int]], *, batch: int = 32) -> float:
    """Claim and finish every node of a graph, each batch a commit, as fast as one connection can."""
    claim = "00000000-0000-4000-8000-000000000001"
    with scratch(url) as connection:
        total = fill_graph(connection, edges)
        finished = 0
        start = time.perf_counter()
        while finished < total:
            rows = connection.execute(CLAIM, {"claim": claim, "batch": batch}).fetchall()
            if not rows:
                raise RuntimeError(f"{total - finished} nodes never became ready")
            done = connection.execute(FINISH, {"ids": [row[0] for row in rows], "claim": claim}).fetchall()
            finished += done[0][0]
        seconds = time.perf_counter() - start
        left = connection.execute("SELECT count(*) FROM node WHERE state <> 3 OR open_needs <> 0").fetchall()
        if left != [(0,)]:
            raise RuntimeError(f"{left[0][0]} nodes are not done")
    return total / seconds


@contextmanager
def scratch(url: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection in a schema of its own."""
    schema = sql.Identifier(f"limits_{secrets.token_hex(6)}")
    with psycopg.connect(_libpq_url(url), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        try:
            connection.execute(sql.SQL("SET search_path TO {}").format(schema))
            connection.execute(SCHEMA)
            yield connection
        finally:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


def _libpq_url(url: str) -> str:
    """SQLAlchemy's URL without the driver."""
    scheme, mark, rest = url.partition("://")
    return scheme.partition("+")[0] + mark + rest


def fill_graph(connection: psycopg.Connection, edges: list[tuple[int, int]]) -> int:
    nodes = {node for edge in edges for node in edge}
    needs = dict.fromkeys(nodes, 0)
    for _, down in edges:
        needs[down] += 1
    rows = [(node, BLOCKED if count else READY, count) for node, count in sorted(needs.items())]
    with connection.cursor() as cursor:
        with cursor.copy("COPY node (id, state, open_needs) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY edge (up, down) FROM STDIN") as copy:
            for edge in edges:
                copy.write_row(edge)
    connection.execute("ANALYZE node")
    connection.execute("ANALYZE edge")
    return len(nodes)


def fibo(n: int) -> int:
    """Work for a processor: about 1.6 times as much for each step of n."""
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)


def _nothing(_: int) -> None:
    """The no-op of the pool."""


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_calls_per_second(calls: int = 1000, *, workers: int = 2) -> float:
    """No-ops through a warm ProcessPoolExecutor, all submitted at once."""
    with warm_pool(workers) as pool:
        start = time.perf_counter()
        list(pool.map(_nothing, range(calls)))
        return calls / (time.perf_counter() - start)


def pool_fibo_seconds(n: int = 33, *, calls: int = 10, workers: int = 2) -> float:
    """Wall time of some fibo(n) on a warm pool: what the processors need at least."""
    with warm_pool(workers) as pool:
        start = time.perf_counter()
        list(pool.map(fibo, [n] * calls))
        return time.perf_counter() - start


@contextmanager
def warm_pool(workers: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(fibo, [20] * workers * 4))
        yield pool


def main() -> None:
    """Measure and print all limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="Postgres to measure on: postgresql://user:password@host:port/database")
    url = parser.parse_args().url
    report = Report("Limits of this machine")
    for batch in (1, 32, 200):
        rate = sql_node_runs_per_second(url, fan(1000), batch=batch)
        report.add(f"SQL, fan of 1,000, batches of {batch}", rate, "node runs/s", better="higher")
    rate = sql_node_runs_per_second(url, chain(40), batch=32)
    report.add("SQL, chain of 40", 1000 / rate, "ms/node run")
    report.add("process pool, no-op", pool_calls_per_second(), "calls/s", better="higher")
    report.add("process pool, 10 x fibo(33)", pool_fibo_seconds(), "s")
    report.print()


if __name__ == "__main__":
    main()

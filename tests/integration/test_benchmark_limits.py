"""The benchmark's limits are measured on state changes that really happen."""

from __future__ import annotations

import psycopg
import pytest


@pytest.fixture
def limits(bench):
    return bench("machine_limits")


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_sql_limit_finishes_every_node_and_leaves_nothing_behind(limits, empty_database_url, batch):
    assert limits.sql_node_runs_per_second(empty_database_url, limits.fan(20), batch=batch) > 0
    assert limits.sql_node_runs_per_second(empty_database_url, limits.chain(5), batch=batch) > 0
    with psycopg.connect(limits._libpq_url(empty_database_url)) as connection:
        left = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'limits%'").fetchone()
    assert left == (0,)


def test_graph_with_a_cycle_is_not_measured(limits, empty_database_url):
    with pytest.raises(RuntimeError, match="never became ready"):
        limits.sql_node_runs_per_second(empty_database_url, [(0, 1), (1, 2), (2, 1)])


def test_pool_limits_are_positive(limits):
    assert limits.pool_calls_per_second(20, workers=1) > 0
    assert limits.pool_fibo_seconds(10, calls=2, workers=1) > 0


def test_latencies_are_positive_and_leave_nothing_behind(bench, empty_database_url):
    latencies = bench("latencies")
    assert latencies.commit_milliseconds(empty_database_url, commits=3) > 0
    assert latencies.round_trip_milliseconds(empty_database_url, trips=3) > 0
    assert latencies.hop_milliseconds(empty_database_url, hops=3) > 0
    assert latencies.notify_milliseconds(empty_database_url, rounds=3) > 0
    assert latencies.call_milliseconds(calls=3) > 0
    with psycopg.connect(bench("machine_limits")._libpq_url(empty_database_url)) as connection:
        left = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'limits%'").fetchone()
    assert left == (0,)


def test_the_cost_of_a_process_per_node_is_measured_beside_a_bare_one(bench):
    report = bench("_report").Report("test")
    bench("subprocess_start").measure(report, serial=3, parallel=5)
    names = [figure.name for figure in report.figures]
    assert names[:2] == ["subprocess: a node, one after the other", "subprocess: a node, 5 at once"]
    assert all(figure.limit is not None and figure.limit > 0 for figure in report.figures)

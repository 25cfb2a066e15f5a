"""Claims by several schedulers at once, and beside a crowd behind a full pool (ENGINE 4)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from agentflow.settings_store import set_pool
from executors.stub import lose
from tests.engine_kit import Kit

ROUNDS, NODES, SOLO = 4, 240, 10
CROWD_RUNS, CROWD_NODES = 100, 500
MAX_TICKS = 5000
#: What this backend read of node_run and has not reported yet: rows fetched through indexes and rows scanned.
_TOUCHED = text("""
SELECT coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0)::int FROM pg_stat_xact_user_tables
WHERE relname LIKE 'node_run%'
""")


class Overlap:
    """Counts how many attempts of the narrow pool run at the same time, over all schedulers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def begin(self, workloads) -> None:
        with self._lock:
            self._now += sum(workload.node.startswith("solo") for workload in workloads)
            self.most = max(self.most, self._now)

    def end(self, workload) -> None:
        with self._lock:
            self._now -= workload.node.startswith("solo")


@pytest.fixture
def rival(shared_engine, tmp_path):
    """A second scheduler on the same database."""
    kit = Kit(shared_engine, tmp_path / "rival", parallelism=16)
    yield kit
    kit.close()


def work(kit, overlap, ended) -> None:
    """Tick until the run has ended; attempts of the narrow pool take until the next tick, the others no time."""
    submit = kit.stub.submit

    def counted(workloads) -> None:
        overlap.begin(workloads)
        submit(workloads)

    kit.stub.submit = counted
    try:
        for _ in range(MAX_TICKS):
            kit.tick()
            for workload in kit.stub.running:
                overlap.end(workload)
                kit.stub._end(workload, kit.stub._next_ending(workload))
            if ended():
                return
    finally:
        kit.stub.submit = submit
    raise AssertionError("the run did not end")


def test_two_schedulers_make_one_attempt_per_node_run_and_keep_to_a_pool_of_one(kit, rival):
    kit.call(set_pool, "solo", 1, actor="test")
    solo = {f"solo{i}": {"pool": "solo"} for i in range(SOLO)}
    layers = {f"n{i}": {"needs": [f"n{i - 40}"] if i >= 40 else []} for i in range(NODES)}
    kit.apply(layers | solo | {"end": {"needs": [*solo, *(f"n{i}" for i in range(NODES - 40, NODES))]}})
    kit.stub._context = rival.stub._context  # few slots each, so that both get some
    overlap = Overlap()
    for each in (kit, rival):
        each.stub.hold(*solo)
    for _ in range(ROUNDS):
        run = kit.create()
        kit.starter.work()
        with ThreadPoolExecutor(2) as threads:
            for future in [
                threads.submit(work, each, overlap, lambda run=run: kit.state(run) == "success")
                for each in (kit, rival)
            ]:
                future.result()

    total = len(layers) + len(solo) + 1
    counts = kit.row(
        "SELECT count(*) AS all, count(*) FILTER (WHERE attempt = 1 AND state = 'success') AS good FROM attempt"
    )
    assert tuple(counts) == (ROUNDS * total, ROUNDS * total)
    submitted = [workload.attempt_id for each in (kit, rival) for workload in each.stub.submitted]
    assert len(submitted) == len(set(submitted)) == ROUNDS * total
    assert min(len(each.stub.submitted) for each in (kit, rival)) > 0
    assert overlap.most == 1


def test_a_scheduler_that_was_declared_dead_claims_nothing(kit, rival):
    kit.apply({"a": {}})
    kit.sql("UPDATE scheduler SET state = 'dead' WHERE id = :id", id=kit.identity.id)
    run = kit.run()
    assert kit.states(run) == {"a": "ready"}
    assert kit.identity.is_dead
    rival.settle()
    assert kit.state(run) == "success"
    assert kit.started() == []


def test_what_a_dead_scheduler_ran_is_lost_and_run_again_and_its_late_results_are_refused(kit, rival):
    from scheduler.recovery import Recovery

    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    kit.stub.hold("a")
    run = kit.run()
    kit.sql("UPDATE scheduler SET beat_at = clock_timestamp() - interval '9 s' WHERE id = :id", id=kit.identity.id)
    Recovery(rival.engine, rival.identity, lambda: None).work()
    rival.settle()
    assert kit.state(run) == "success"
    kit.stub.release("a")
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "lost"), (2, "success")]
    assert [event.attempt for event in kit.events(run, "refused")] == [1]
    assert [workload.node for workload in rival.stub.submitted] == ["a", "b"]


def test_a_scheduler_that_is_only_slow_keeps_its_attempts(kit, rival):
    from scheduler.recovery import Recovery

    kit.apply({"a": {}})
    kit.stub.hold("a")
    run = kit.run()
    kit.sql("UPDATE scheduler SET beat_at = clock_timestamp() - interval '5 s' WHERE id = :id", id=kit.identity.id)
    Recovery(rival.engine, rival.identity, lambda: None).work()
    kit.stub.release("a")
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "success")]


def test_losing_attempts_of_both_schedulers_never_doubles_one(kit, rival):
    kit.apply({f"n{i}": {} for i in range(30)})
    for each in (kit, rival):
        for i in range(30):
            each.stub.script(f"n{i}", lose())
    run = kit.create()
    kit.starter.work()
    for _ in range(20):
        kit.tick()
        rival.tick()
    assert set(kit.states(run).values()) == {"failed"}
    assert kit.row("SELECT count(*) AS n, max(attempt) AS most FROM attempt") == (30 * 6, 6)


def take(kit):
    """What a claim would take, whether there may be more, and how many rows of node_run it read; nothing is kept."""
    with kit.own.connect() as connection, connection.begin() as transaction:
        before = connection.scalar(_TOUCHED)
        taken, more = kit.loop._claimer._take(connection, {("stub", False): 100}, kit.loop._oldest, {})
        touched = connection.scalar(_TOUCHED) - before
        transaction.rollback()
    return taken, more, touched


def test_a_crowd_behind_a_full_pool_costs_an_unrelated_claim_nothing(kit):
    # Given a pool of 1 that is taken, and 50,000 ready nodes that wait for it
    kit.call(set_pool, "narrow", 1, actor="test")
    kit.apply({"holder": {"pool": "narrow"}}, name="first")
    kit.apply({f"n{i}": {"pool": "narrow"} for i in range(CROWD_NODES)}, name="crowd", max_active_runs=CROWD_RUNS)
    kit.apply({"lone": {}}, name="lone")
    kit.stub.hold("holder")
    kit.run("first")
    for _ in range(CROWD_RUNS):
        kit.create("crowd")
    kit.starter.work()
    assert kit.row("SELECT count(*) AS n FROM node_run WHERE state = 'ready'").n == CROWD_RUNS * CROWD_NODES
    # When a node of another pool becomes ready
    kit.create("lone")
    kit.starter.work()
    kit.identity.beaten(kit.identity.id, 1e12)
    taken, more, touched = take(kit)
    # Then it is found without looking at them
    assert len(taken) == 1
    assert not more
    assert touched < 100
    # And with its slots back, the pool hands out no more than it has, and locks no more than that
    kit.stub.release("holder")
    kit.tick_events_only(claim=False)
    kit.sql("ANALYZE")  # the planner knows now how many they are, and must not sort them
    taken, _, touched = take(kit)
    assert len(taken) == 2
    assert touched < 100

"""What the scheduler does costs as much in a database full of history as in an empty one: it never reads the history.

Postgres' own counters say how many rows each piece of work read, by whichever plan; a plan that walks through the
finished runs of the month would read tens of thousands.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import event, text

from agentflow.db.models.history import PARTITIONED
from agentflow.db.partitions import ensure_partitions
from agentflow.db.queries import claims, schedulers
from agentflow.ids import uuid7
from agentflow.runs import cancel_run, clear_run, insert_run, mark_node, show_run
from agentflow.settings_store import list_pools
from agentflow.states import TriggeredBy
from executors.stub import fail, succeed
from scheduler.consistency import Consistency
from scheduler.fires import Fires
from scheduler.recovery import Recovery
from tests.engine_kit import Kit

RUNS, NODES = 1000, 20
FEW = 1000  #: Rows that a piece of work may read; the history has 20,000 node runs and as many attempts.

#: What this session has read of the history since it last handed its numbers in: rows by scans, entries by indexes.
COUNTER = rf"""
SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(oid)), 0)::bigint FROM pg_class
WHERE relname ~ '^({"|".join(PARTITIONED)})_(20|default)' AND relkind IN ('r', 'i')
"""

FILL = """
WITH r AS (SELECT id, row_number() OVER () AS n FROM unnest(CAST(:ids AS uuid[])) AS id),
made AS (
  INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor, created_at, started_at,
    finished_at, event_seq, total_nodes)
  SELECT r.id, 1, w.id, w.published_version_id, 'success', 'cron', '{}', 'system', now(), now(), now(), 3, :nodes
  FROM r, workflow w WHERE w.name = 'old'
), nodes AS (
  INSERT INTO node_run (run_id, node_no, map_index, version_id, group_id, state, priority, pool_slots, n_up, attempt,
    executor, ready_at, queued_at, started_at, finished_at)
  SELECT r.id, n.node_no, -1, n.version_id, n.group_id, 'success', 0, 1, 0, 1, 'stub', now(), now(), now(), now()
  FROM r, workflow w JOIN version_node n ON n.version_id = w.published_version_id WHERE w.name = 'old'
), attempts AS (
  INSERT INTO attempt (run_id, node_no, map_index, attempt, state, token_hash, executor, scheduler_id, queued_at,
    started_at, finished_at)
  SELECT r.id, no, -1, 1, 'success', '\\x00', 'stub', :scheduler, now(), now(), now()
  FROM r, generate_series(0, :nodes - 1) AS no
)
INSERT INTO run_event (run_id, seq, at, kind, state) SELECT r.id, s, now(), 'run', 'success' FROM r, generate_series(1, 3) s
"""


@pytest.fixture(scope="module", params=["after an old open run", "with nothing open"])
def kit(request, shared_engine, tmp_path_factory):
    """A scheduler on a database with a month of history; once with a run that has been open since before all of it."""
    kit = Kit(shared_engine, tmp_path_factory.mktemp("kit"))
    name = kit.row("SELECT quote_ident(current_database())")[0]
    # What parallel workers read is counted in their own sessions.
    kit.sql(f"ALTER DATABASE {name} SET max_parallel_workers_per_gather = 0")
    now = kit.row("SELECT clock_timestamp()")[0]
    begin = now - timedelta(days=25)
    kit.call(ensure_partitions, begin, months=1)
    kit.apply({f"n{number}": {} for number in range(NODES)}, "old")
    kit.apply({"a": {}}, "waiting")
    if request.param == "after an old open run":
        workflow, version = kit.row("SELECT id, published_version_id FROM workflow WHERE name = 'waiting'")
        kit.call(
            insert_run,
            workspace=1,
            workflow=workflow,
            version=version,
            params={},
            triggered_by=TriggeredBy.CLI,
            now=begin - timedelta(hours=1),
            actor="test",
        )
        kit.sql("UPDATE workflow SET paused = true WHERE name = 'waiting'")
    step = (now - begin) / RUNS
    ids = "{" + ",".join(str(uuid7(begin + number * step)) for number in range(RUNS)) + "}"
    kit.sql(FILL, ids=ids, nodes=NODES, scheduler=kit.identity.id)
    with shared_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    event.listen(kit.own, "commit", _count)
    yield kit
    event.remove(kit.own, "commit", _count)
    kit.close()
    kit.forget()


READ = [0]


def _count(connection):
    cursor = connection.connection.driver_connection.cursor()
    READ[0] += cursor.execute(COUNTER).fetchone()[0]
    cursor.execute("SELECT pg_stat_force_next_flush()")  # the next transaction begins at 0


def reads(work):
    """Rows of the history that the scheduler reads during `work`; what the test itself reads is not counted."""
    before = READ[0]
    work()
    return READ[0] - before


def history_is_full(kit):
    return kit.row("SELECT count(*) FROM node_run WHERE state = 'success'")[0] >= RUNS * NODES


def test_the_counter_sees_a_walk_through_the_history(kit):
    assert history_is_full(kit)
    walk = text("SELECT count(*) FROM node_run WHERE executor = 'none'")
    for _ in range(2):
        assert RUNS * NODES <= reads(lambda: _in(kit, lambda c: c.execute(walk))) < 2 * RUNS * NODES
    assert reads(lambda: _in(kit, lambda c: c.execute(text("SELECT 1")))) == 0


def _work_of(kit):
    """Everything that a scheduler does again and again, by name."""
    return {
        "tick": kit.tick,
        "starter": kit.starter.work,
        "gates": kit.gates.work,
        "fires": Fires(kit.own, lambda: None).work,
        "recovery": Recovery(kit.own, kit.identity, lambda: None).work,
        "consistency": Consistency(kit.own, quiet=-1.0).check,
        "oldest open run": lambda: _in(kit, claims.oldest_open_run),
        "pools": lambda: _in(kit, list_pools),
        "released reservations": lambda: _in(kit, partial(schedulers.release_reservations, owners=[uuid7()])),
    }


def _in(kit, function):
    with kit.own.begin() as connection:
        function(connection)


WORK = [
    "tick",
    "starter",
    "gates",
    "fires",
    "recovery",
    "consistency",
    "oldest open run",
    "pools",
    "released reservations",
]


@pytest.mark.parametrize("name", WORK)
def test_looking_for_work_reads_no_history(kit, name):
    work = _work_of(kit)[name]
    for _ in range(7):  # prepared by then, and on the plan that stays
        read = reads(work)
    assert read < FEW


def test_a_run_reads_what_is_its_own(kit):
    nodes = {f"n{number}": {"needs": [f"n{number - 1}"] if number else []} for number in range(10)}
    nodes |= {
        "flaky": {"needs": ["n2"], "retries": 2, "retry_delay": "1s"},
        "maybe": {"needs": ["n3"], "when": "{{ params.go }}"},
        "join": {"needs": ["flaky", "maybe", "n9"], "trigger_rule": "all_done"},
    }
    kit.apply(nodes, "live", params={"go": {"type": "boolean", "default": False}})
    for _ in range(2):
        kit.stub.script("flaky", fail(), succeed(1))
        found = []
        read = reads(lambda found=found: found.append(kit.finish(kit.run("live"))))
        assert found == ["success"]
    # A dozen hops of about ten statements, each of which reads a handful of rows.
    assert read < 4 * FEW


def test_a_cancelled_and_cleared_run_reads_what_is_its_own(kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}}, "small")
    run = kit.run("small")

    def work():
        _in(kit, lambda c: clear_run(c, run, actor="test"))
        _in(kit, lambda c: cancel_run(c, run, actor="test"))
        _in(kit, lambda c: clear_run(c, run, nodes=["b"], downstream=True, actor="test"))
        kit.settle()
        _in(kit, lambda c: mark_node(c, run, "a", "failed", actor="test"))
        _in(kit, lambda c: show_run(c, run))

    assert reads(work) < FEW


def test_due_triggers_read_no_history(kit):
    kit.apply({"a": {}}, "scheduled", triggers=[{"type": "interval", "every": "1h", "name": "n"}])
    fires = Fires(kit.own, lambda: None)
    for _ in range(7):
        kit.sql("UPDATE trigger SET next_fire_at = next_fire_at - interval '1 hour' WHERE active")
        kit.sql("DELETE FROM fire")
        read = reads(fires.work)
    assert kit.row("SELECT count(*) FROM run WHERE triggered_by = 'interval'")[0] > 0
    assert read < FEW
    kit.settle()

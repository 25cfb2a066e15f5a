"""Every statement of scheduler and people, explained in an empty database and in one with months of finished runs.

What a statement reads may not grow with the history, nor with the size of a run that is under way: no plan walks through
partitions. `test_history_cost` counts the same for whole pieces of work; this one names the statement.
"""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import text

from agentflow import catalog, runs
from agentflow.catalog.events import list_events
from agentflow.db.engine import make_engine, transact
from agentflow.db.queries import claims, schedulers
from agentflow.ids import uuid7
from agentflow.runs import insert_run
from agentflow.settings_store import list_pools
from agentflow.states import RunState, TriggeredBy
from executors.stub import fail, lose, succeed
from scheduler.consistency import Consistency
from scheduler.fires import Fires
from scheduler.recovery import Recovery
from tests.engine_kit import Kit, branch
from tests.explain_kit import Explainer
from tests.history_kit import fill_history

pytestmark = pytest.mark.timeout(400)  # each statement is sent twice, and its plan read
RUNS, NODES, DAYS = 2500, 40, 75
LARGE = 3000  #: Nodes of the large run.
#: A statement may look into each partition's index, of which the history has three times as many.
MORE_ROWS, MORE_BUFFERS = 100, 150


class WatchedKit(Kit):
    """What people do goes through an engine of its own, as a client's would, so that it can be told from the test's."""

    def __init__(self, engine, folder, **keys) -> None:
        super().__init__(engine, folder, **keys)
        self.people = make_engine(engine.url.render_as_string(hide_password=False))
        self.explainer = Explainer()

    def call(self, function, *arguments, **keywords):
        return transact(self.people, lambda connection: function(connection, *arguments, **keywords))

    def explained(self, work) -> dict:
        """What each statement that `work` sends costs."""
        self.explainer.found = {}
        with self.explainer.watching(self.own, self.people):
            work()
        assert self.explainer.found
        return self.explainer.found

    def tick_until(self, condition) -> None:
        for _ in range(100):
            self.tick()
            if condition():
                return
        raise AssertionError("it did not come to that")

    def close(self) -> None:
        super().close()
        self.people.dispose()


def in_own(kit, function):
    with kit.own.begin() as connection:
        return function(connection)


# -- what schedulers and people do --------------------------------------------------------------------------------------
def every_kind_of_node(kit, tag) -> str:
    """A run with a retry, a loss, a condition, a branch, a mapped node, a repeated sub-run and a cascade of skips."""
    nodes = {
        "first": {"config": {"output": [1, 2, 3]}},
        "flaky": {"needs": ["first"], "retries": 2, "retry_delay": "1s"},
        "maybe": {"needs": ["first"], "when": "{{ params.go }}"},
        "never": {"needs": ["maybe"]},
        "mapped": {"needs": ["first"], "for_each": "{{ nodes.first.output }}", "max_parallel": 2},
        "choose": branch("left", needs=["first"]),
        "left": {"needs": ["choose"]},
        "right": {"needs": ["choose"]},
        "sub": {"type": "workflow", "config": {"name": f"child{tag}"}, "repeat": {"until": "{{ false }}", "max": 2}},
        "join": {"needs": ["flaky", "never", "mapped", "left", "right"], "trigger_rule": "all_done"},
    }
    kit.apply({"c": {}}, f"child{tag}")
    go = {"go": {"type": "boolean", "default": False}}
    kit.apply(nodes, f"live{tag}", params=go, timeout="1h", triggers=[{"type": "interval", "every": "1h", "name": "n"}])
    all_of = {"type": "event", "workflows": [f"live{tag}", "other"], "mode": "all", "name": "all"}
    kit.apply({"a": {}}, f"after{tag}", triggers=[{"type": "event", "workflow": f"live{tag}"}, all_of])
    kit.stub.script("flaky", lose(), fail(), succeed(1))
    kit.stub.script("first", succeed([1, 2, 3]))
    run = kit.run(f"live{tag}")
    assert kit.finish(run) == "success"
    return run


def triggers_and_limits(kit, tag) -> None:
    """Due triggers, runs that wait for the past, failures in a row that pause a workflow."""
    every = {"type": "interval", "every": "1h", "name": "n", "catchup": True}
    kit.apply({"a": {}}, f"past{tag}", depends_on_past=True, max_consecutive_failures=2, triggers=[every])
    kit.stub.script("a", fail(), fail(), fail())
    for _ in range(3):
        kit.sql("UPDATE trigger SET next_fire_at = next_fire_at - interval '1 hour' WHERE next_fire_at IS NOT NULL")
        Fires(kit.own, lambda: None).work()
        kit.settle()


def what_people_do(kit, run, tag) -> None:
    """Handling: everything that changes a run."""
    kit.clear(run, "mapped[1]")
    kit.settle()
    kit.clear(run)
    kit.cancel(run)
    kit.settle()
    kit.clear(run, "mapped", downstream=True, upstream=True)
    kit.mark(run, "flaky", "failed")
    kit.settle()
    again = kit.call(runs.rerun, run, actor="test")["id"]
    kit.call(runs.set_note, again, "again", actor="test")
    kit.settle()
    kit.retry_now()
    kit.finish(again)
    kit.call(runs.delete_run, again, actor="test")
    now = kit.row("SELECT clock_timestamp() AS now").now
    kit.call(runs.open_runs, f"live{tag}", [RunState.QUEUED, RunState.RUNNING], workspace="default")
    kit.call(runs.runs_between, f"live{tag}", now, now, workspace="default")


def what_people_read(kit, run, tag) -> None:
    """Pages of runs by every filter, also those that find nothing; a run, its logs, the workflows."""
    for workflow in (None, f"live{tag}"):
        for state in (None, *RunState):
            kit.call(runs.list_runs, workflow=workflow, states=[] if state is None else [state])
        for triggered_by in TriggeredBy:
            kit.call(runs.list_runs, workflow=workflow, triggered_by=[triggered_by])
    kit.call(runs.list_runs, workflow=f"live{tag}", hidden=True)
    kit.show(run)
    for address in (None, "mapped[1]", "sub.sub[1].c"):
        kit.call(lambda connection, node=address: list(runs.read_logs(connection, run, node)))
    kit.call(catalog.show_workflow, f"live{tag}")
    kit.call(list_events, subject=run)


def duties(kit) -> None:
    """What is done again and again, whether there is something to do or not."""
    kit.sql("UPDATE scheduler SET beat_at = beat_at - interval '1 h' WHERE id <> :me", me=kit.identity.id)
    Recovery(kit.own, kit.identity, lambda: None).work()
    Consistency(kit.own, quiet=-1.0).check()
    Fires(kit.own, lambda: None).work()
    in_own(kit, claims.oldest_open_run)
    in_own(kit, list_pools)
    in_own(kit, partial(schedulers.release_reservations, owners=[uuid7()]))
    kit.settle()


def everything(kit, tag) -> None:
    run = every_kind_of_node(kit, tag)
    triggers_and_limits(kit, tag)
    what_people_read(kit, run, tag)
    what_people_do(kit, run, tag)
    duties(kit)


# -- tests ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def kit(shared_engine, tmp_path):
    kit = WatchedKit(shared_engine, tmp_path, parallelism=50)
    yield kit
    kit.close()


def old_open_run(kit, at) -> None:
    """A run that has been open since before all history: no partition can be left out for being older."""
    kit.apply({"a": {}}, "waiting")
    workflow, version = kit.row("SELECT id, published_version_id FROM workflow WHERE name = 'waiting'")
    kit.call(
        insert_run,
        workspace=1,
        workflow=workflow,
        version=version,
        params={},
        triggered_by=TriggeredBy.CLI,
        now=at,
        actor="test",
    )
    kit.sql("UPDATE workflow SET paused = true WHERE name = 'waiting'")


def analyse(kit) -> None:
    with kit.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def grown(small, large) -> list[str]:
    """The statements that cost more in the second than in the first."""
    return [
        f"rows {small[sql].rows} -> {one.rows}, pages {small[sql].buffers} -> {one.buffers}: {sql}"
        for sql, one in large.items()
        if sql in small
        and (one.rows > small[sql].rows + MORE_ROWS or one.buffers > 2 * small[sql].buffers + MORE_BUFFERS)
    ]


def test_no_statement_reads_more_when_there_is_more_history(kit):
    empty = kit.explained(partial(everything, kit, "-1"))
    kit.let_time_pass()
    now = kit.row("SELECT clock_timestamp() AS now").now
    kit.since = uuid7(now)
    fill_history(kit.engine, now=now, runs=RUNS, nodes=NODES, days=DAYS)
    old_open_run(kit, now.replace(year=now.year - 1))
    full = kit.explained(partial(everything, kit, "-2"))
    assert len(full) > 120
    assert grown(empty, full) == []
    new = {sql: one for sql, one in full.items() if sql not in empty}
    assert [f"{one.rows} rows: {sql}" for sql, one in new.items() if one.rows > MORE_ROWS] == []
    walk = text("SELECT count(*) FROM node_run WHERE executor = 'none'")
    (seen,) = kit.explained(lambda: in_own(kit, lambda connection: connection.execute(walk))).values()
    assert seen.rows >= RUNS * NODES  # so a walk would have been told


@pytest.mark.parametrize("before", ["nothing", "small runs", "large runs"])
def test_no_statement_reads_more_when_the_run_is_larger(kit, before):
    """1 -> many -> 1, some of it done: what follows costs what it moves, whatever the planner knows of earlier runs."""
    tag = before.replace(" ", "-")
    if before != "nothing":
        past = {f"n{number}": {} for number in range(1 if before == "small runs" else 2000)}
        kit.apply(past, tag, max_active_runs=1000)
        for _ in range(200 if before == "small runs" else 1):
            kit.create(tag)
        kit.settle()
        analyse(kit)
    kit.stub.submitted.clear()
    middle = {f"n{no}": {"needs": ["first"], "config": {"output": "{{ nodes.first.output }}"}} for no in range(LARGE)}
    name = f"fan-after-{tag}"
    kit.apply({"first": {}} | middle | {"last": {"needs": list(middle)}}, name)
    run = kit.create(name)
    kit.starter.work()
    kit.tick_until(lambda: len(kit.stub.submitted) >= 100)

    def go_on() -> None:
        kit.tick_until(lambda: len(kit.stub.submitted) >= 400)
        for service in (kit.starter, kit.gates, kit.ends):
            service.work()

    found = kit.explained(go_on)
    kit.cancel(run)
    kit.settle()
    assert [f"{one.rows} rows: {sql}" for sql, one in found.items() if one.rows > LARGE / 2] == []

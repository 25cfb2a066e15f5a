"""A large run that has just been created is cancelled and cleared in seconds: the planner's statistics do not know it."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import text

from agentflow import catalog, runs
from agentflow.db.engine import transact
from agentflow.db.queries.queued import start_waiting
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy

NODES = 20_000
STATES = text("SELECT state, count(*) AS n FROM node_run WHERE run_id = :run GROUP BY state")


@pytest.fixture
def small_history(engine) -> None:
    """Statistics of a database in which every run has been small."""
    _start(engine, "small", {"a": {"type": "noop"}, "b": {"type": "noop", "needs": ["a"]}}, runs_of_it=50)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


@pytest.mark.usefixtures("small_history")
@pytest.mark.parametrize("edges", ["none", "from the first", "one after the other"])
def test_fresh_run_of_many_nodes_is_cancelled_and_cleared_in_linear_time(engine, edges):
    def needs(number: int) -> dict:
        up = {"none": None, "from the first": 0, "one after the other": number - 1}[edges]
        return {"needs": [f"n{up}"]} if number and up is not None else {}

    run_id = _start(engine, "large", {f"n{i}": {"type": "noop"} | needs(i) for i in range(NODES)})
    states = partial(_states, engine, run_id)
    assert sum(states().values()) == NODES

    _quickly(engine, lambda c: runs.cancel_run(c, run_id, actor="test"))
    assert states() == {"cancelled": NODES}

    _quickly(engine, lambda c: runs.clear_run(c, run_id, actor="test"))
    roots = NODES if edges == "none" else 1
    assert states() == {"ready": roots} | ({"pending": NODES - roots} if roots < NODES else {})


def _quickly(engine, work) -> None:
    """Each statement takes well below a second; comparing all nodes of the run with each other takes minutes."""

    def bounded(connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = '15s'"))
        work(connection)

    transact(engine, bounded)


def _states(engine, run_id: str) -> dict[str, int]:
    return {row.state: row.n for row in transact(engine, lambda c: c.execute(STATES, {"run": run_id}).all())}


def _start(engine, name: str, nodes: dict, *, runs_of_it: int = 1) -> str:
    spec = parse_document({"name": name, "max_active_runs": 100, "nodes": nodes})
    transact(engine, lambda c: catalog.apply_spec(c, spec, source="api", actor="test"))
    create = partial(runs.create_run, name=name, params={}, triggered_by=TriggeredBy.API, actor="test")
    made = [transact(engine, create) for _ in range(runs_of_it)]
    while transact(engine, start_waiting).started:
        pass
    return str(made[-1]["id"])

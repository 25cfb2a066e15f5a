"""`wait: {sql: …}` against a real server: what holds, what does not yet, what fails; and the way of a connection to it."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from agentflow.keys import key_ring
from agentflow.nodes.base import NodeContext, NodeDeferred, NodeFailed
from agentflow.nodes.wait import WaitConfig, WaitNode
from agentflow.secrets import set_connection
from executors.stub import succeed


@pytest.fixture
def fields(shared_engine):
    """A connection to the test's own server, as a workload brings it."""
    url = make_url(shared_engine.url)
    query = dict(url.query)
    host = query.get("host", url.host)
    found = {"host": host, "port": url.port or query.get("port"), "database": url.database, "user": url.username}
    return {name: value for name, value in found.items() if value} | {"password": url.password or "none"}


def look(fields, query, **params):
    """None when it holds, else why not; what it raises is returned too."""
    config = WaitConfig.model_validate({"sql": {"connection": "dwh", "query": query, "params": params}})
    try:
        WaitNode().run(config, NodeContext(connections={"dwh": {"type": "postgres", **fields}}))
    except NodeDeferred as wish:
        return wish.state
    except NodeFailed as error:
        return f"{error.kind}: {error}"
    return None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SELECT true", None),
        ("SELECT 1", None),
        ("SELECT 0.5::numeric, false", None),
        ("SELECT 'x'", None),
        ("SELECT 100 % 7", None),  # without params a % is a %
        ("SELECT false", "the query gives False"),
        ("SELECT 0", "the query gives 0"),
        ("SELECT 0::numeric", "the query gives Decimal('0')"),
        ("SELECT ''", "the query gives ''"),
        ("SELECT null", "the query gives None"),
        ("SELECT 1 WHERE false", "the query gives no row"),
    ],
)
def test_a_query_holds_when_its_first_value_is_true(fields, query, found):
    assert look(fields, query) == found


def test_values_come_in_by_params(fields):
    query = "SELECT %(day)s = '2026-05-01' AND %(n)s > 4"
    assert look(fields, query, day="2026-05-01", n=5) is None
    assert look(fields, query, day="'; DROP TABLE run; --", n=5) == "the query gives False"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "SyntaxError: the query failed: syntax error"),
        ("SELECT * FROM nowhere", "UndefinedTable: the query failed"),
        ("DELETE FROM run RETURNING 1", "ReadOnlySqlTransaction: the query failed"),
        ("COMMIT; DELETE FROM run", "SyntaxError: the query failed: cannot insert multiple commands"),
        ("SELECT 1; SELECT 2", "SyntaxError: the query failed: cannot insert multiple commands"),
    ],
)
def test_a_wrong_query_fails_and_none_can_write(fields, query, message):
    assert look(fields, query).startswith(message)


def test_a_query_that_takes_too_long_is_asked_again(fields, monkeypatch):
    monkeypatch.setattr("agentflow.nodes.wait_sql._PATIENCE", 0.05)
    assert look(fields, "SELECT pg_sleep(20)") == (
        "the database cannot be asked: canceling statement due to statement timeout"
    )


def test_a_server_that_is_not_there_is_asked_again():
    assert look({"host": "127.0.0.1", "port": 1}, "SELECT 1").startswith("the database cannot be asked: connection")


def test_a_connection_reaches_the_attempt_that_names_it_and_no_other(kit):
    kit.settings = kit.settings.model_copy(update={"secret_key": "k" * 43})
    ring = key_ring("k" * 43, kit.settings.home)
    for name in ("dwh", "other"):
        kit.call(
            set_connection,
            name,
            type="postgres",
            config={"host": "db.internal"},
            secrets={"password": f"pass-of-{name}"},
            ring=ring,
            actor="test",
        )
    kit.loop._claimer._dispatcher._settings = kit.settings
    sql = {"connection": "dwh", "query": "SELECT 1"}
    kit.apply({"w": {"type": "wait", "config": {"sql": sql}}, "n": {}})
    kit.stub.script("w", succeed({"waited_s": 0}))
    run = kit.run()
    assert kit.state(run) == "success"
    given = {w.node: w.connections for w in kit.stub.submitted}
    assert given["n"] == {}
    assert set(given["w"]) == {"dwh"}
    assert given["w"]["dwh"].fields == {"host": "db.internal", "type": "postgres"}
    assert given["w"]["dwh"].secrets == {"password": "pass-of-dwh"}
    kit.sql("DELETE FROM connection")


def test_a_connection_that_does_not_exist_fails_the_attempt_with_what_to_do(kit):
    sql = {"connection": "nowhere", "query": "SELECT 1"}
    kit.apply({"w": {"type": "wait", "config": {"sql": sql}}})
    error = kit.nodes(kit.run())["w"]["error"]
    assert error["type"] == "ConnectionMissing"
    assert "the connection `nowhere` does not exist (set it with `agentflow connections set nowhere" in error["message"]

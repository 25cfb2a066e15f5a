"""Triggers, events, import errors, schedulers, node types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from agentflow.access import Role
from agentflow.catalog import apply_spec, set_paused
from agentflow.db.engine import transact
from agentflow.ids import uuid7
from agentflow.spec import parse_document

NODES = {"a": {"type": "noop"}}


@pytest.fixture
def flow(web):
    triggers = [
        {"type": "cron", "name": "nightly", "cron": "0 3 * * *"},
        {"type": "interval", "every": "15m", "paused": True},
        {"type": "event", "workflow": "other"},
    ]
    spec = parse_document({"name": "flow", "nodes": NODES, "triggers": triggers})
    transact(web.engine, lambda c: apply_spec(c, spec, source="api", actor="test"))


def sql(web, statement, **parameters):
    with web.engine.begin() as connection:
        connection.execute(text(statement), parameters)


def test_triggers_with_their_next_fires(web, flow):
    nightly, interval, event = web.get("/triggers?fires=2")["items"]
    assert (nightly["name"], nightly["type"], len(nightly["fires"])) == ("nightly", "cron", 2)
    assert nightly["fires"][0]["at"] == nightly["next_fire"]
    assert nightly["next_fire"].endswith("T03:00:00.000000Z")
    assert (interval["paused"], interval["fires"], interval["next_fire"]) == (True, [], None)
    assert (event["type"], event["fires"]) == ("event", [])
    assert nightly["last_fire"] is nightly["last_run"] is None


def test_a_paused_workflow_does_not_fire(web, flow):
    transact(web.engine, lambda c: set_paused(c, "flow", True, "test"))
    nightly = web.get("/triggers?workflow=flow")["items"][0]
    assert (nightly["workflow_paused"], nightly["next_fire"], nightly["fires"]) == (True, None, [])


def test_triggers_by_page_and_workflow(web, flow):
    page = web.get("/triggers?limit=2")
    assert len(page["items"]) == 2
    rest = web.get(f"/triggers?limit=2&cursor={page['next_cursor']}")
    assert [trigger["type"] for trigger in rest["items"]] == ["event"]
    web.get("/triggers?workflow=none", expect=404)
    web.act_as(Role.ADMIN, workspace="other")
    assert web.get("/triggers")["items"] == []
    web.get("/triggers?workflow=flow", expect=404)


def test_the_latest_fire_is_told(web, flow):
    run = uuid7()
    sql(
        web,
        "INSERT INTO fire (trigger_id, logical_date, run_id, outcome) SELECT id, :at, :run, 'run' FROM trigger"
        " WHERE identity = 'nightly'",
        at=datetime(2026, 11, 1, 3, tzinfo=UTC),
        run=run,
    )
    nightly = web.get("/triggers")["items"][0]
    assert (nightly["last_fire"], nightly["last_run"]) == ("2026-11-01T03:00:00.000000Z", str(run))


def test_a_trigger_that_this_version_cannot_read_spoils_no_list(web, flow):
    sql(web, "UPDATE trigger SET config = '{\"type\": \"moon\"}', type = 'moon' WHERE identity = 'nightly'")
    moon = next(trigger for trigger in web.get("/triggers")["items"] if trigger["type"] == "moon")
    assert (moon["name"], moon["fires"]) == ("moon", [])


def test_events_by_filter_and_page(web):
    for name in ("a", "b"):
        web.put(f"/variables/{name}", {"value": 1}, expect=201)
    web.put("/pools/p", {"slots": 1}, expect=201)
    assert [event["action"] for event in web.get("/events?action=variable")["items"]] == ["variable.set"] * 2
    assert [event["subject"] for event in web.get("/events?actor=user:ada@example.org&subject=p")["items"]] == ["p"]
    first = web.get("/events?limit=2")
    rest = web.get(f"/events?limit=2&cursor={first['next_cursor']}")
    assert [event["subject"] for event in first["items"] + rest["items"]] == ["p", "b", "a"]


@pytest.mark.parametrize(
    ("role", "instance_admin", "told"),
    [
        (Role.VIEWER, False, {"pool.set"}),
        (Role.EDITOR, False, {"pool.set"}),
        (Role.ADMIN, False, {"pool.set", "api-key.created", "member.granted"}),
        (Role.ADMIN, True, {"pool.set", "api-key.created", "member.granted", "user.created"}),
    ],
)
def test_who_is_not_told_of_accounts_does_not_read_of_them_in_events(web, role, instance_admin, told):
    web.put("/pools/p", {"slots": 1}, expect=201)
    for action in ("api-key.created", "member.granted", "user.created"):
        sql(
            web,
            "INSERT INTO audit_event (workspace_id, actor, action, subject, detail)"
            " SELECT id, 'test', :action, 'x', '{}' FROM workspace WHERE name = 'default'",
            action=action,
        )
    web.act_as(role, instance_admin=instance_admin)
    assert {event["action"] for event in web.get("/events")["items"]} == told
    assert bool(web.get("/events?action=user")["items"]) is instance_admin


def test_import_errors(web):
    statement = """INSERT INTO source_file (workspace_id, path, fingerprint, message, line)
        SELECT id, :path, '', 'no name', 3 FROM workspace WHERE name = 'default'"""
    for path in ("b.yaml", "a.py"):
        sql(web, statement, path=path)
    page = web.get("/import-errors?limit=1")
    assert (page["items"][0]["file"], page["items"][0]["line"]) == ("a.py", 3)
    assert web.get(f"/import-errors?cursor={page['next_cursor']}")["items"][0]["file"] == "b.yaml"


def test_schedulers_that_do_not_beat_are_dead(web):
    now = datetime.now(UTC)
    for minutes, name in ((0, "new"), (5, "old")):
        sql(
            web,
            """INSERT INTO scheduler (id, hostname, pid, state, parallelism, started_at, beat_at)
            VALUES (:id, :name, 7, 'alive', 4, :at, :at)""",
            id=uuid7(now - timedelta(minutes=minutes)),
            name=name,
            at=now - timedelta(minutes=minutes),
        )
    items = web.get("/schedulers")["items"]
    assert [(item["hostname"], item["state"]) for item in items] == [("new", "alive"), ("old", "dead")]
    page = web.get("/schedulers?limit=1")
    (old,) = web.get(f"/schedulers?cursor={page['next_cursor']}")["items"]
    assert (old["id"], old["attempts"]) == (items[1]["id"], 0)
    assert 300 <= old["beat_age"] < 400


def test_what_no_scheduler_serves_is_told_to_its_workspace(web, kit):
    kit.apply({"a": {"queue": "gpu"}})
    kit.run()
    answer = web.get("/schedulers?ended_within=60")
    assert answer["unserved"] == [{"queue": "gpu", "executor": None, "workflows": ["flow"]}]
    assert len(answer["items"]) == 1
    web.act_as(Role.VIEWER, workspace="elsewhere")
    assert web.get("/schedulers")["unserved"] == []
    web.get("/schedulers?ended_within=0", expect=422)


def test_node_types_tell_the_schema_of_their_config(web):
    types = {item["name"]: item for item in web.get("/node-types")["items"]}
    assert {"python", "shell", "http", "noop"} <= types.keys()
    assert types["shell"]["config_schema"]["properties"]["command"]["type"] == "string"
    assert types["shell"]["usable"]

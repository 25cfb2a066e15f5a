"""What the API does, done in the webserver's role: it has every right that the use cases need, in its workspace alone."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from agentflow import runs, secrets, settings_store
from agentflow.catalog import (
    delete_workflow,
    export_spec,
    import_errors,
    list_events,
    list_workflows,
    set_paused,
    show_workflow,
)
from agentflow.db.tenancy import WEB
from agentflow.errors import NotFound
from agentflow.keys import KeyRing, SecretKey
from agentflow.states import TriggeredBy
from tests.storage_kit import apply, create, make_spec
from tests.tenancy_kit import act_as

RING = KeyRing([SecretKey("k" * 40)])
FLOW = {"a": {"type": "noop"}, "b": {"type": "noop", "needs": ["a"]}}
CRON = {"type": "cron", "cron": "0 6 * * *"}


@pytest.fixture
def web(connection):
    """A transaction of a request for the default workspace."""
    act_as(connection, WEB, connection.scalar(text("SELECT id FROM workspace WHERE name = 'default'")))
    return connection


def finished_run(kit):
    kit.apply(FLOW)
    run = kit.run()
    assert kit.finish(run) == "success"
    return str(run)


def in_web(kit, work):
    """One committed transaction in the webserver's role."""
    with kit.engine.begin() as connection:
        act_as(connection, WEB, connection.scalar(text("SELECT id FROM workspace WHERE name = 'default'")))
        return work(connection)


def test_workflows_are_applied_shown_paused_and_deleted(web):
    apply(web, make_spec(nodes=FLOW, triggers=[CRON]))
    apply(web, make_spec(nodes=FLOW | {"c": {"type": "noop"}}, triggers=[CRON]))
    assert show_workflow(web, "flow")["version"] == 2
    assert export_spec(web, "flow")
    assert set_paused(web, "flow", True, "test")["changed"]
    assert set_paused(web, "flow", False, "test")["changed"]
    assert list_workflows(web)
    assert import_errors(web)[0] == []
    run = create(web)
    assert list_events(web)[0]
    runs.cancel_run(web, run["id"], actor="test")
    with web.begin_nested():
        web.execute(text("RESET ROLE"))
        web.execute(text("UPDATE run SET state = 'cancelled', finished_at = now()"))  # as a scheduler does
    act_as(web, WEB, web.scalar(text("SELECT id FROM workspace WHERE name = 'default'")))
    delete_workflow(web, "flow", "test")
    web.execute(text("RESET ROLE"))
    for table in ("workflow", "workflow_version", "version_node", "version_edge", "trigger", "dispatch_group", "run"):
        assert web.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table


def test_settings_are_kept_and_secrets_written(web):
    settings_store.set_pool(web, "gpu", 2, actor="test")
    assert [pool["name"] for pool in settings_store.list_pools(web)[0]] == ["default", "gpu"]
    settings_store.delete_pool(web, "gpu", actor="test")
    settings_store.set_variable(web, "city", "Berlin", actor="test")
    settings_store.set_variable(web, "city", "Bonn", actor="test")
    settings_store.delete_variable(web, "city", actor="test")
    for value in ("first value", "second value"):
        secrets.set_secret(web, "KEY", value, ring=RING, actor="test")
        secrets.set_connection(web, "c", type="http", config={}, secrets={"p": value}, ring=RING, actor="test")
    assert secrets.list_secrets(web)[0][0]["name"] == "KEY"
    assert secrets.list_connections(web)[0][0]["secret_fields"] == ["p"]
    secrets.delete_secret(web, "KEY", actor="test")
    secrets.delete_connection(web, "c", actor="test")


def test_runs_are_shown_noted_rerun_marked_cleared_and_deleted(kit):
    run = finished_run(kit)
    in_web(kit, lambda c: runs.set_note(c, run, "seen", actor="test"))
    assert in_web(kit, lambda c: runs.show_run(c, run))["note"] == "seen"
    assert in_web(kit, runs.list_runs)[0]
    in_web(kit, lambda c: list(runs.read_logs(c, run)))
    again = in_web(kit, lambda c: runs.rerun(c, run, actor="test"))["id"]
    in_web(kit, lambda c: runs.mark_node(c, run, "b", "failed", actor="test"))
    assert in_web(kit, lambda c: runs.show_run(c, run))["state"] == "failed"
    in_web(kit, lambda c: runs.clear_run(c, run, nodes=["a"], downstream=True, actor="test"))
    assert kit.finish(run) == "success"
    assert kit.finish(again) == "success"
    for one in (run, again):
        in_web(kit, lambda c, one=one: runs.delete_run(c, one, actor="test"))
    with kit.engine.connect() as connection:
        for table in ("run", "node_run", "attempt", "output", "run_event"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0, f"{table}: rows without their run"


def test_ids_of_another_workspace_lead_nowhere(kit):
    run = finished_run(kit)
    with kit.engine.begin() as connection:
        connection.execute(text("INSERT INTO workspace (name) VALUES ('elsewhere') ON CONFLICT DO NOTHING"))
        elsewhere = connection.scalar(text("SELECT id FROM workspace WHERE name = 'elsewhere'"))
    attempts = [
        lambda c: runs.show_run(c, run),
        lambda c: list(runs.read_logs(c, run)),
        lambda c: runs.cancel_run(c, run, actor="test"),
        lambda c: runs.clear_run(c, run, actor="test"),
        lambda c: runs.mark_node(c, run, "a", "failed", actor="test"),
        lambda c: runs.set_note(c, run, "mine", actor="test"),
        lambda c: runs.rerun(c, run, actor="test"),
        lambda c: runs.delete_run(c, run, actor="test"),
        lambda c: runs.create_run(c, "flow", {}, triggered_by=TriggeredBy.API, actor="test"),
        lambda c: show_workflow(c, "flow"),
    ]
    for attempt in attempts:
        with kit.engine.begin() as connection:
            act_as(connection, WEB, elsewhere)
            with pytest.raises(NotFound):
                attempt(connection)
    with kit.engine.connect() as connection:
        assert runs.show_run(connection, run)["note"] != "mine"

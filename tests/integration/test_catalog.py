"""Stored workflows: versions by content, owners, triggers' clocks, pausing, deleting, lists; and pools and variables."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from agentflow.bundles import Bundle
from agentflow.catalog import (
    delete_workflow,
    export_spec,
    list_workflows,
    set_paused,
    show_workflow,
    store_adhoc,
)
from agentflow.db.models.history import PARTITIONED
from agentflow.db.queries.queued import start_waiting
from agentflow.errors import Conflict, NotFound, OwnedByFile, UsageError
from agentflow.runs import cancel_run
from agentflow.settings_store import (
    delete_pool,
    delete_variable,
    list_pools,
    list_variables,
    set_pool,
    set_variable,
)
from agentflow.spec import content_hash, parse_document
from tests.storage_kit import apply, create, make_spec, rows, value

EVERY_HOUR = {"type": "interval", "every": "1h"}
SIX = {"type": "cron", "cron": "0 6 * * *"}


def audited(connection):
    return rows(connection, "SELECT actor, action, subject FROM audit_event ORDER BY id")


def triggers(connection, where="true"):
    """Identity -> (active, paused, next_fire_at, id)."""
    found = rows(connection, f"SELECT identity, active, paused, next_fire_at, id FROM trigger WHERE {where}")
    return {row[0]: tuple(row[1:]) for row in found}


def clocks(connection):
    """When each active trigger is due next."""
    found = rows(connection, "SELECT config, next_fire_at FROM trigger WHERE active ORDER BY id")
    return [(config, at) for config, at in found]


def turn_back(connection, moment):
    """Set every clock to a moment that no computation gives, to see whether it is kept."""
    connection.execute(text("UPDATE trigger SET next_fire_at = :at WHERE next_fire_at IS NOT NULL"), {"at": moment})


# -- versions ----------------------------------------------------------------------------------------------------------
def test_the_same_content_again_changes_nothing(connection):
    assert apply(connection, make_spec()) == {"name": "flow", "version": 1, "changed": True, "created": True}
    before = rows(connection, "SELECT * FROM workflow")
    assert apply(connection, make_spec()) == {"name": "flow", "version": 1, "changed": False, "created": False}
    assert rows(connection, "SELECT * FROM workflow") == before
    assert value(connection, "SELECT count(*) FROM workflow_version") == 1
    assert len(audited(connection)) == 1


def test_another_content_is_the_next_version_and_the_old_one_stays(connection):
    apply(connection, make_spec())
    changed = make_spec(nodes={"a": {"type": "noop"}, "b": {"type": "noop", "needs": ["a"]}}, max_active_runs=3)
    assert apply(connection, changed) == {"name": "flow", "version": 2, "changed": True, "created": False}
    assert apply(connection, make_spec())["version"] == 3  # going back is a new version too
    assert [v for (v,) in rows(connection, "SELECT version FROM workflow_version ORDER BY id")] == [1, 2, 3]
    assert export_spec(connection, "flow", 2)["max_active_runs"] == 3
    assert "max_active_runs" not in export_spec(connection, "flow")
    assert value(connection, "SELECT max_active_runs FROM workflow") == 16


def test_new_words_without_new_content_change_the_words_only(connection):
    apply(connection, make_spec(title="Old", tags=["x"]))
    again = apply(connection, make_spec(title="New", description="More", tags=["y", "z"]))
    assert again == {"name": "flow", "version": 1, "changed": False, "created": False}
    shown = show_workflow(connection, "flow")
    assert (shown["title"], shown["tags"], shown["version"]) == ("New", ["y", "z"], 1)
    assert shown["spec"]["description"] == "More"
    apply(connection, make_spec())
    assert show_workflow(connection, "flow")["title"] is None
    assert "title" not in export_spec(connection, "flow")


@pytest.mark.parametrize(("first", "second", "version"), [("1", "1", 1), ("1", "2", 2), (None, "1", 2), ("1", None, 2)])
def test_another_code_bundle_is_another_version(connection, first, second, version):
    code = {"a": {"type": "python", "config": {"function": "jobs:main"}}}
    for bundle_hash in (first, second):
        bundle = Bundle(bundle_hash * 64, b"data") if bundle_hash else None
        applied = apply(connection, make_spec(nodes=code), bundle=bundle)
    assert applied["version"] == version
    stored = value(connection, "SELECT bundle_hash FROM workflow_version ORDER BY version DESC LIMIT 1")
    assert stored == (second * 64 if second else None)


def test_applying_in_two_transactions_at_once_makes_one_workflow_and_one_version(engine):
    barrier, results, errors = threading.Barrier(2), [], []

    def work():
        barrier.wait(30)
        try:
            with engine.begin() as connection:
                results.append(apply(connection, make_spec()))
        except Exception as error:  # noqa: BLE001 - shown by the assert below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert sorted((r["created"], r["changed"], r["version"]) for r in results) == [(False, False, 1), (True, True, 1)]


def test_the_graph_is_stored_per_version_in_spec_order(connection):
    nodes = {
        "z": {"type": "noop"},
        "m": {"type": "noop", "needs": ["z"], "when": "{{ params.go }}", "priority": 7, "retries": 2},
        "a": {"type": "noop", "needs": ["z", "m"], "trigger_rule": "all_done"},
    }
    apply(connection, make_spec(nodes=nodes, params={"go": {"type": "boolean", "default": True}}))
    found = rows(
        connection,
        "SELECT node_no, node_id, n_up, gated, is_leaf, priority, retries, trigger_rule FROM version_node ORDER BY 1",
    )
    assert [tuple(row) for row in found] == [
        (0, "z", 0, False, False, 0, 0, "all_success"),
        (1, "m", 1, True, False, 7, 2, "all_success"),
        (2, "a", 2, False, True, 0, 0, "all_done"),
    ]
    assert [tuple(r) for r in rows(connection, "SELECT up_no, down_no FROM version_edge ORDER BY 1, 2")] == [
        (0, 1),
        (0, 2),
        (1, 2),
    ]


def test_an_unknown_pool_is_refused_with_the_command_that_makes_it(engine):
    nodes = {"a": {"type": "noop", "pool": "gpu"}}
    with pytest.raises(NotFound, match="gpu") as error, engine.begin() as connection:
        apply(connection, make_spec(nodes=nodes))
    assert "agentflow pools set gpu" in error.value.hint
    with engine.begin() as connection:
        assert list_workflows(connection) == ([], None)
        set_pool(connection, "gpu", 2, actor="test")
        assert apply(connection, make_spec(nodes=nodes))["version"] == 1


# -- owners ------------------------------------------------------------------------------------------------------------
FILE = {"source": "file", "path": "a.yaml"}


@pytest.mark.parametrize(
    ("owner", "newcomer", "error"),
    [
        (FILE, {"source": "api"}, OwnedByFile),
        (FILE, {"source": "file", "path": "b.yaml"}, Conflict),
        ({"source": "api"}, FILE, Conflict),
        (FILE, FILE, None),
        ({"source": "api"}, {"source": "api"}, None),
    ],
)
def test_a_name_belongs_to_its_first_source(engine, owner, newcomer, error):
    with engine.begin() as connection:
        apply(connection, make_spec(), **owner)
        before = rows(connection, "SELECT * FROM workflow")
    changed = make_spec(nodes={"b": {"type": "noop"}})
    if error is None:
        with engine.begin() as connection:
            assert apply(connection, changed, **newcomer)["version"] == 2
        return
    with pytest.raises(error) as refused, engine.begin() as connection:
        apply(connection, changed, **newcomer)
    assert type(refused.value) is error
    assert refused.value.hint
    with engine.begin() as connection:
        assert rows(connection, "SELECT * FROM workflow") == before
        assert value(connection, "SELECT count(*) FROM workflow_version") == 1


def test_a_missing_workflow_may_be_taken_over_by_another_file_but_not_by_the_api(engine):
    with engine.begin() as connection:
        apply(connection, make_spec(), **FILE)
        connection.execute(text("UPDATE workflow SET missing = true"))
    with pytest.raises(OwnedByFile), engine.begin() as connection:
        apply(connection, make_spec())
    with engine.begin() as connection:
        assert apply(connection, make_spec(), source="file", path="b.yaml") == {
            "name": "flow",
            "version": 1,
            "changed": True,
            "created": False,
        }
        assert [tuple(r) for r in rows(connection, "SELECT source_path, missing FROM workflow")] == [("b.yaml", False)]


def test_adhoc_versions_are_apart_from_the_published_name_and_never_listed(connection):
    apply(connection, make_spec())
    store_adhoc(connection, make_spec(triggers=[SIX], title="Ad hoc"), bundle=None, actor="cli:me")
    first = store_adhoc(connection, make_spec("other", triggers=[SIX]), bundle=None, actor="cli:me")
    assert store_adhoc(connection, make_spec("other", triggers=[SIX]), bundle=None, actor="cli:me") == first
    assert [w["name"] for w in list_workflows(connection)[0]] == ["flow"]
    assert show_workflow(connection, "flow")["title"] is None
    assert triggers(connection) == {}
    with pytest.raises(NotFound):
        show_workflow(connection, "other")
    with pytest.raises(NotFound):
        set_paused(connection, "other", True, "test")
    with pytest.raises(NotFound):
        delete_workflow(connection, "other", "test")
    assert apply(connection, make_spec("other"))["created"] is True


# -- triggers ----------------------------------------------------------------------------------------------------------
KEPT = datetime(2040, 1, 1, 3, 4, 5, tzinfo=UTC)


def test_a_new_trigger_starts_from_now(connection):
    apply(connection, make_spec(triggers=[EVERY_HOUR, SIX]))
    now = value(connection, "SELECT clock_timestamp()")
    hour, six = (at for _, at in clocks(connection))
    assert hour == now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    assert timedelta(0) < six - now <= timedelta(days=1)
    assert (six.hour, six.minute, six.second) == (6, 0, 0)


@pytest.mark.parametrize("trigger", [EVERY_HOUR, SIX, SIX | {"name": "morning"}])
def test_an_unchanged_trigger_keeps_its_clock_and_its_row_across_versions(connection, trigger):
    apply(connection, make_spec(triggers=[trigger]))
    turn_back(connection, KEPT)
    before = triggers(connection)
    for words in ({"max_active_runs": 2}, {"title": "words only"}, {"timeout": "1h"}):
        apply(connection, make_spec(triggers=[trigger], **words))
        assert triggers(connection) == before


@pytest.mark.parametrize(
    ("before", "after", "same_row"),
    [
        (SIX, SIX | {"cron": "0 7 * * *"}, False),
        (SIX, SIX | {"timezone": "Asia/Tokyo"}, False),
        (SIX | {"name": "n"}, SIX | {"name": "n", "cron": "0 7 * * *"}, True),
        (SIX | {"name": "n"}, EVERY_HOUR | {"name": "n"}, True),
        (SIX | {"name": "n"}, SIX | {"name": "n", "timezone": "Asia/Tokyo"}, True),
    ],
)
def test_a_changed_trigger_starts_from_now(connection, before, after, same_row):
    apply(connection, make_spec(triggers=[before]))
    turn_back(connection, KEPT)
    old = triggers(connection)
    apply(connection, make_spec(triggers=[after]))
    ((config, at),) = clocks(connection)
    now = value(connection, "SELECT clock_timestamp()")
    assert config == after
    assert now < at < now + timedelta(days=1, minutes=5)
    assert ({row[3] for row in triggers(connection, "active").values()} == {row[3] for row in old.values()}) is same_row
    assert triggers(connection, "NOT active AND next_fire_at IS NOT NULL") == {}


@pytest.mark.parametrize("change", [{"params": {"city": "Rome"}}, {"catchup": True}])
def test_a_named_trigger_that_does_something_else_at_the_same_times_keeps_its_clock(connection, change):
    params = {"city": {"type": "string", "default": "Berlin"}}
    apply(connection, make_spec(triggers=[SIX | {"name": "n"}], params=params))
    turn_back(connection, KEPT)
    apply(connection, make_spec(triggers=[SIX | {"name": "n"} | change], params=params))
    assert clocks(connection) == [(SIX | {"name": "n"} | change, KEPT)]


def test_a_removed_trigger_is_retired_and_starts_from_now_when_it_returns(connection):
    apply(connection, make_spec(triggers=[EVERY_HOUR, SIX]))
    row = triggers(connection)
    apply(connection, make_spec(triggers=[EVERY_HOUR]))
    assert len(triggers(connection, "active")) == 1
    assert triggers(connection, "NOT active AND next_fire_at IS NOT NULL") == {}
    turn_back(connection, KEPT)
    apply(connection, make_spec(triggers=[EVERY_HOUR, SIX]))
    assert {identity: found[3] for identity, found in triggers(connection).items()} == {
        identity: found[3] for identity, found in row.items()
    }
    (_, hour), (_, six) = clocks(connection)
    assert hour == KEPT
    assert six < KEPT


def test_a_paused_trigger_has_no_clock_until_it_is_unpaused(connection):
    apply(connection, make_spec(triggers=[SIX]))
    turn_back(connection, datetime(2020, 1, 1, tzinfo=UTC))
    apply(connection, make_spec(triggers=[SIX | {"paused": True}]))
    ((active, paused, at, _),) = triggers(connection).values()
    assert (active, paused, at) == (True, True, None)
    apply(connection, make_spec(triggers=[SIX]))
    ((_, at),) = clocks(connection)
    assert at > value(connection, "SELECT clock_timestamp()")


def test_unpausing_a_workflow_starts_its_triggers_from_now(connection):
    apply(connection, make_spec(triggers=[SIX, EVERY_HOUR | {"paused": True}]))
    turn_back(connection, datetime(2020, 1, 1, tzinfo=UTC))
    set_paused(connection, "flow", True, "test")
    set_paused(connection, "flow", False, "test")
    now = value(connection, "SELECT clock_timestamp()")
    assert [at is not None and at > now for _, at in clocks(connection)] == [True, False]


def test_a_date_in_the_past_never_fires(connection):
    apply(connection, make_spec(triggers=[{"type": "date", "at": "2020-01-01T00:00:00Z"}]))
    assert [at for _, at in clocks(connection)] == [None]


# -- pause and delete --------------------------------------------------------------------------------------------------
def test_pausing_says_whether_it_changed_anything_and_is_audited_with_its_actor(connection):
    apply(connection, make_spec(), actor="cli:ann")
    assert set_paused(connection, "flow", True, "cli:bob") == {"name": "flow", "changed": True}
    assert set_paused(connection, "flow", True, "cli:bob") == {"name": "flow", "changed": False}
    assert show_workflow(connection, "flow")["paused"] is True
    assert set_paused(connection, "flow", False, "cli:eve") == {"name": "flow", "changed": True}
    apply(connection, make_spec(max_active_runs=2), actor="cli:ann")
    assert [tuple(row) for row in audited(connection)] == [
        ("cli:ann", "workflow.created", "flow"),
        ("cli:bob", "workflow.paused", "flow"),
        ("cli:eve", "workflow.unpaused", "flow"),
        ("cli:ann", "workflow.updated", "flow"),
    ]


def test_pausing_a_file_s_workflow_is_allowed_and_survives_its_next_version(connection):
    apply(connection, make_spec(), **FILE)
    set_paused(connection, "flow", True, "test")
    apply(connection, make_spec(max_active_runs=2), **FILE)
    assert show_workflow(connection, "flow")["paused"] is True


def test_delete_is_refused_while_runs_are_open_and_then_takes_the_history_along(engine):
    with engine.begin() as connection:
        apply(connection, make_spec(triggers=[SIX]))
        apply(connection, make_spec("kept"))
        run = create(connection)["id"]
        create(connection, "kept")
        start_waiting(connection)
    with pytest.raises(Conflict, match="1 runs") as error, engine.begin() as connection:
        delete_workflow(connection, "flow", "test")
    assert "cancel" in error.value.hint
    with engine.begin() as connection:
        cancel_run(connection, run, actor="test")
    with engine.begin() as connection:
        assert delete_workflow(connection, "flow", "cli:ann") == {"name": "flow", "changed": True}
    with engine.begin() as connection:
        assert [w["name"] for w in list_workflows(connection)[0]] == ["kept"]
        for table in PARTITIONED:
            key = "id" if table == "run" else "run_id"
            assert value(connection, f"SELECT count(*) FROM {table} WHERE {key} = :run", run=run) == 0
        assert value(connection, "SELECT count(*) FROM run") == 1
        assert value(connection, "SELECT count(*) FROM trigger") == 0
        assert tuple(audited(connection)[-1]) == ("cli:ann", "workflow.deleted", "flow")
        assert apply(connection, make_spec())["version"] == 1  # the name is free again


def test_delete_of_a_file_s_workflow_needs_the_file_to_be_gone(engine):
    with engine.begin() as connection:
        apply(connection, make_spec(), **FILE)
    with pytest.raises(OwnedByFile) as error, engine.begin() as connection:
        delete_workflow(connection, "flow", "test")
    assert "delete the file" in error.value.hint
    with engine.begin() as connection:
        connection.execute(text("UPDATE workflow SET missing = true"))
        delete_workflow(connection, "flow", "test")


def test_a_run_is_never_created_for_a_workflow_that_is_being_deleted(engine):
    """Without a lock on the workflow the run would be queued for ever, and nobody would see it."""
    with engine.begin() as connection:
        apply(connection, make_spec())
    outcome = []

    def delete():
        try:
            with engine.begin() as connection:
                delete_workflow(connection, "flow", "test")
            outcome.append("deleted")
        except Conflict:
            outcome.append("refused")

    thread = threading.Thread(target=delete)
    with engine.begin() as connection:
        create(connection)
        thread.start()
        with engine.begin() as watcher:
            deadline = time.monotonic() + 20
            while not value(watcher, "SELECT count(*) FROM pg_locks WHERE NOT granted") and not outcome:
                assert time.monotonic() < deadline
    thread.join(30)
    assert outcome == ["refused"]
    with engine.begin() as connection:
        assert value(connection, "SELECT count(*) FROM run r JOIN workflow w ON w.id = r.workflow_id") == 1


# -- reading -----------------------------------------------------------------------------------------------------------
def test_the_shape_of_a_listed_workflow(connection):
    apply(connection, make_spec("b", title="Bee", tags=["t"], triggers=[SIX]), **FILE)
    apply(connection, make_spec("a"))
    older, newer = create(connection, "b"), create(connection, "b")
    newest = max((older, newer), key=lambda run: run["id"])
    (first, second), _ = list_workflows(connection)
    assert first == {
        "name": "a",
        "title": None,
        "version": 1,
        "source": "api",
        "source_path": None,
        "paused": False,
        "pause_reason": None,
        "missing": False,
        "tags": [],
        "next_fire": None,
        "latest_run": None,
    }
    assert {key: second[key] for key in ("name", "title", "source", "source_path", "tags")} == {
        "name": "b",
        "title": "Bee",
        "source": "file",
        "source_path": "a.yaml",
        "tags": ["t"],
    }
    assert second["next_fire"].endswith("T06:00:00.000000Z")
    assert second["latest_run"] == {"id": newest["id"], "state": "queued", "created_at": newest["created_at"]}


@pytest.mark.parametrize("column", ["paused", "missing"])
def test_a_paused_or_missing_workflow_has_no_next_fire(connection, column):
    apply(connection, make_spec(triggers=[SIX]))
    assert show_workflow(connection, "flow")["next_fire"]
    connection.execute(text(f"UPDATE workflow SET {column} = true"))
    assert show_workflow(connection, "flow")["next_fire"] is None


def test_the_next_fire_is_the_earliest_of_the_active_triggers(connection):
    apply(connection, make_spec(triggers=[SIX, {"type": "interval", "every": "1m"}, EVERY_HOUR | {"paused": True}]))
    earliest = min(at for _, at in clocks(connection) if at)
    assert show_workflow(connection, "flow")["next_fire"] == earliest.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_an_export_applies_back_to_the_same_version(connection):
    spec = make_spec(
        title="T",
        description="D",
        tags=["x"],
        triggers=[SIX | {"timezone": "Europe/Berlin"}],
        params={"city": {"type": "string", "default": "Zürich"}},
        nodes={
            "a": {
                "type": "noop",
                "position": {"x": 1, "y": 2},
                "config": {"output": {"n": 1.0, "text": "{{ params.city }}"}},
            },
            "b-c": {"type": "noop", "needs": ["a"], "retries": 3, "retry_backoff": 2.0},
        },
    )
    apply(connection, spec)
    document = export_spec(connection, "flow")
    again = parse_document(document)
    assert content_hash(again) == content_hash(spec)
    assert apply(connection, again) == {"name": "flow", "version": 1, "changed": False, "created": False}
    assert export_spec(connection, "flow") == document
    assert show_workflow(connection, "flow")["spec"] == document


def test_an_unknown_name_suggests_a_similar_one_and_an_unknown_version_says_which_exist(connection):
    apply(connection, make_spec("nightly-report"))
    with pytest.raises(NotFound) as error:
        show_workflow(connection, "nigthly-report")
    assert "nightly-report" in error.value.hint
    with pytest.raises(NotFound, match="version 9") as error:
        export_spec(connection, "nightly-report", 9)
    assert "1 to 1" in error.value.hint


# -- pools and variables -----------------------------------------------------------------------------------------------
def test_pools_are_set_resized_counted_and_deleted(connection):
    assert set_pool(connection, "gpu", 2, description="cards", actor="cli:ann") == {"name": "gpu", "changed": True}
    set_pool(connection, "gpu", 0, actor="cli:ann")
    assert list_pools(connection)[0] == [
        {"name": "default", "slots": 128, "description": "Every node that names no pool", "used": 0},
        {"name": "gpu", "slots": 0, "description": "cards", "used": 0},
    ]
    set_pool(connection, "gpu", 3, description="", actor="cli:ann")
    assert list_pools(connection)[0][1]["description"] == ""
    assert delete_pool(connection, "gpu", actor="cli:bob") == {"name": "gpu", "changed": True}
    assert [tuple(row) for row in audited(connection)] == [("cli:ann", "pool.set", "gpu")] * 3 + [
        ("cli:bob", "pool.deleted", "gpu")
    ]


def test_used_slots_are_those_of_claimed_node_runs(connection):
    set_pool(connection, "gpu", 8, actor="test")
    apply(connection, make_spec(nodes={n: {"type": "noop", "pool": "gpu", "pool_slots": 3} for n in "abc"}))
    create(connection)
    start_waiting(connection)
    assert list_pools(connection)[0][1]["used"] == 0
    connection.execute(text("UPDATE node_run SET state = 'queued', attempt = 1, executor = 'stub' WHERE node_no < 2"))
    assert list_pools(connection)[0][1]["used"] == 6


@pytest.mark.parametrize(("name", "slots"), [("1gpu", 1), ("", 1), ("a b", 1), ("gpu", -1), ("gpu", 10**7)])
def test_a_wrong_pool_is_wrong_usage(connection, name, slots):
    with pytest.raises(UsageError) as error:
        set_pool(connection, name, slots, actor="test")
    assert error.value.hint


def test_a_pool_in_use_and_the_default_one_are_not_deleted(connection):
    set_pool(connection, "gpu", 1, actor="test")
    apply(connection, make_spec(nodes={"a": {"type": "noop", "pool": "gpu"}}))
    for name, message in (("gpu", "flow"), ("default", "default")):
        with pytest.raises(Conflict, match=message):
            delete_pool(connection, name, actor="test")
    with pytest.raises(NotFound):
        delete_pool(connection, "none", actor="test")


@pytest.mark.parametrize("stored", ["Berlin", 3, 2.5, True, None, [1, "zwei"], {"a": {"b": "\u0000 ü"}}, "1"])
def test_a_variable_keeps_any_json_value(connection, stored):
    set_variable(connection, "x", "before", actor="test")
    assert set_variable(connection, "x", stored, actor="test") == {"name": "x", "changed": True}
    ((found,), _) = list_variables(connection)
    assert (found["name"], found["value"], type(found["value"])) == ("x", stored, type(stored))


def test_variables_are_deleted_and_their_values_are_not_in_the_audit_log(connection):
    set_variable(connection, "token", "s3cret", actor="cli:ann")
    delete_variable(connection, "token", actor="cli:ann")
    assert list_variables(connection) == ([], None)
    assert "s3cret" not in str(rows(connection, "SELECT * FROM audit_event"))
    with pytest.raises(NotFound):
        delete_variable(connection, "token", actor="test")
    with pytest.raises(UsageError):
        set_variable(connection, "not a name", 1, actor="test")

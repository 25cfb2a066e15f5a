"""Old months are dropped as a whole, archived first if set; what is still needed stays, and the system goes on."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from agentflow.cli.main import main
from agentflow.db.engine import make_engine
from agentflow.db.models.history import PARTITIONED
from agentflow.db.partitions import ensure_partitions
from agentflow.db.queries.trash import discarded
from agentflow.errors import Conflict
from agentflow.objects.store import ObjectStore, ObjectStoreUnreachable
from agentflow.retention import AUDIT_DAYS, Pruner
from agentflow.retention.archive import archive_month
from agentflow.retention.prune import ADVISORY_LOCK
from agentflow.runs import insert_run, list_runs
from agentflow.settings import Settings
from agentflow.states import TriggeredBy
from scheduler.retention import Retention
from tests.site_kit import Site, python
from tests.storage_kit import apply, make_spec, rows, value

OLD, OLDER = datetime(2025, 6, 15, tzinfo=UTC), datetime(2025, 5, 31, 23, 59, 59, tzinfo=UTC)
DAY = timedelta(days=1)
ODD = '{"z": 1, "a": 123456789012345678901234567890, "ü\\n\\\\": [1.10, "\\u2028"],\n "nested": {"b": null}}'


@pytest.fixture
def old(engine):
    """A database with two old months."""
    with engine.begin() as connection:
        apply(connection, make_spec(nodes={"a": {"type": "noop"}}))
        ensure_partitions(connection, OLDER, months=1)
    return engine


def history(connection, at, *, state="success", parent=None):
    """A run of that time with rows in every table."""
    version = rows(connection, "SELECT id AS version, workflow_id AS workflow FROM workflow_version")[0]
    run = insert_run(
        connection,
        workspace=1,
        workflow=version.workflow,
        version=version.version,
        params=json.loads(ODD),
        triggered_by=TriggeredBy.CLI,
        now=at,
        actor="test",
    )
    ended = None if state in ("queued", "running") else at
    begun = None if state == "queued" else at
    connection.execute(
        text(
            "UPDATE run SET state = :state, started_at = :begun, finished_at = :ended, parent_run_id = :parent WHERE id = :run"
        ),
        {"state": state, "begun": begun, "ended": ended, "run": run, "parent": parent},
    )
    for statement in (
        "INSERT INTO output (run_id, node_no, map_index, value, bytes) VALUES (:run, 0, -1, CAST(:odd AS json), 1)",
        (
            "INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)"
            " VALUES (:run, 0, -1, 1, 0, 1, 1, 0, CAST(:bytes AS bytea))"
        ),
    ):
        parameters = {"run": run, "odd": ODD, "bytes": bytes(range(256))}
        connection.execute(text(statement), parameters)
    return run


def add(engine, at, **keys):
    with engine.begin() as connection:
        return history(connection, at, **keys)


def pruner(engine, tmp_path, *, store=None, archive=False, tries=2):
    store = ObjectStore((tmp_path / "objects").as_uri()) if store is None else store
    return Pruner(engine, store, actor="test", archive=archive, tries=tries)


def months(told):
    return {month["month"]: month["state"] for month in told["months"]}


def there(engine):
    with engine.begin() as connection:
        return {row[0] for row in rows(connection, "SELECT id FROM run")}


def test_months_that_have_ended_are_dropped_whole_and_with_their_objects(old, tmp_path):
    run, newer = add(old, OLDER), add(old, datetime(2026, 11, 20, tzinfo=UTC))
    told = pruner(old, tmp_path).prune(90 * DAY)
    assert months(told) == {"2025-05": "dropped", "2025-06": "dropped"}
    assert (told["months"][0]["runs"], told["months"][0]["rows"] == 3, told["changed"]) == (1, True, True)
    assert there(old) == {newer}
    with old.begin() as connection:
        assert discarded(connection) == ["runs/2025_05", "runs/2025_06"]
        for table in PARTITIONED:
            assert value(connection, "SELECT to_regclass(:name)", name=f"{table}_2025_05") is None
        assert [
            row.subject for row in rows(connection, "SELECT subject FROM audit_event WHERE action = 'history.pruned'")
        ] == [
            "2025-05",
            "2025-06",
        ]
        assert list_runs(connection)[0][0]["id"] == str(newer)
    assert run not in there(old)
    assert pruner(old, tmp_path).prune(90 * DAY)["changed"] is False


def test_a_month_goes_only_when_all_of_it_is_old_enough(old, tmp_path):
    add(old, OLDER)
    with old.begin() as connection:
        now = value(connection, "SELECT clock_timestamp()")
    told = pruner(old, tmp_path).prune(now - datetime(2025, 6, 30, tzinfo=UTC))
    assert months(told) == {"2025-05": "dropped"}


@pytest.mark.parametrize("state", ["queued", "running"])
def test_an_open_run_keeps_its_month_and_is_listed(old, tmp_path, state):
    run = add(old, OLDER, state=state)
    told = pruner(old, tmp_path).prune(90 * DAY)
    assert months(told) == {"2025-05": "open", "2025-06": "dropped"}
    assert told["months"][0]["open"] == [{"id": str(run), "workflow": "flow", "state": state}]
    assert run in there(old)


def test_a_sub_run_of_an_open_run_and_an_end_that_was_not_told_keep_their_month(old, tmp_path):
    parent = add(old, OLDER, state="running")
    child = add(old, OLD, parent=parent)
    told = pruner(old, tmp_path).prune(90 * DAY)
    assert [month["open"][0]["id"] for month in told["months"]] == [str(parent), str(child)]
    with old.begin() as connection:
        connection.execute(text("UPDATE run SET state = 'success', finished_at = now() WHERE id = :id"), {"id": parent})
        connection.execute(text("INSERT INTO run_end (run_id) VALUES (:id)"), {"id": parent})
    assert months(pruner(old, tmp_path).prune(90 * DAY)) == {"2025-05": "open", "2025-06": "dropped"}


def test_a_dry_run_changes_nothing(old, tmp_path):
    run = add(old, OLDER)
    with old.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO audit_event (workspace_id, at, actor, action, subject, detail)"
                " VALUES (1, '2020-01-01', 'x', 'x', 'x', '{}')"
            )
        )
    told = pruner(old, tmp_path).prune(90 * DAY, dry_run=True)
    assert months(told) == {"2025-05": "would-drop", "2025-06": "would-drop"}
    assert (told["audit_events"], told["changed"]) == (1, False)
    assert run in there(old)


def test_side_rows_of_dropped_runs_go_with_them_and_free_their_dates(old, tmp_path):
    gone, kept = add(old, OLDER), add(old, datetime(2026, 11, 20, tzinfo=UTC))
    with old.begin() as connection:
        for run, date in ((gone, "2025-05-01"), (kept, "2026-11-01")):
            connection.execute(
                text(
                    "INSERT INTO manual_date SELECT workflow_id, CAST(:date AS timestamptz), id FROM run WHERE id = :run"
                ),
                {"run": run, "date": date},
            )
    pruner(old, tmp_path).prune(90 * DAY)
    with old.begin() as connection:
        assert [row.run_id for row in rows(connection, "SELECT run_id FROM manual_date")] == [kept]


def test_audit_events_and_fires_outlive_their_runs_for_a_while(old, tmp_path):
    ages = [AUDIT_DAYS + 1, AUDIT_DAYS - 1]
    with old.begin() as connection:
        apply(connection, make_spec("timed", triggers=[{"type": "cron", "cron": "0 0 * * *"}]))
        connection.execute(text("DELETE FROM audit_event"))
        trigger = value(connection, "SELECT id FROM trigger")
        for age in ages:
            at = {"age": age, "trigger": trigger}
            connection.execute(
                text(
                    "INSERT INTO audit_event (workspace_id, at, actor, action, subject, detail)"
                    " VALUES (1, now() - make_interval(days => :age), 'x', 'x', 'x', '{}')"
                ),
                at,
            )
            connection.execute(
                text(
                    "INSERT INTO fire (trigger_id, logical_date, outcome, fired_at) VALUES (:trigger,"
                    " now() - make_interval(days => :age), 'skipped', now() - make_interval(days => :age))"
                ),
                at,
            )
    told = pruner(old, tmp_path).prune(10_000 * DAY)
    assert (told["audit_events"], told["fires"], told["months"]) == (1, 1, [])
    with old.begin() as connection:
        assert value(connection, "SELECT count(*) FROM audit_event") == 1
        assert value(connection, "SELECT count(*) FROM fire") == 1


def test_an_archive_holds_every_row_and_can_be_restored(old, store, tmp_path):
    runs = {add(old, OLDER - timedelta(hours=number)) for number in range(5)}
    with old.begin() as connection:
        before = {
            table: rows(connection, f"SELECT CAST(t AS text) FROM {table}_2025_05 AS t ORDER BY 1")
            for table in PARTITIONED
        }
    told = pruner(old, tmp_path, store=store, archive=True).prune(90 * DAY)
    assert [month["archived"] for month in told["months"]] == [True, False]  # nothing was in the second
    assert there(old) == set()
    with old.begin() as connection:
        assert discarded(connection) == ["runs/2025_06"]  # the objects of an archived month stay
        manifest = json.loads(store.get("archive/2025_05/manifest.json"))
        ensure_partitions(connection, OLDER, months=0)
        for table in manifest["tables"].values():
            for name in table["files"]:
                for line in gzip.decompress(store.get(name)).decode().split("\n")[:-1]:
                    connection.execute(
                        text(
                            f"INSERT INTO {table['of']} SELECT * FROM json_populate_record(CAST(NULL AS {table['of']}), :line)"
                        ),
                        {"line": line},
                    )
        for table in PARTITIONED:
            found = rows(connection, f"SELECT CAST(t AS text) FROM {table}_2025_05 AS t ORDER BY 1")
            assert [row[0].replace("\n", " ") for row in found] == [row[0].replace("\n", " ") for row in before[table]]
    assert there(old) == runs


def test_an_archive_comes_in_chunks_and_replaces_what_an_earlier_try_left(old, store):
    from agentflow.db.queries.months import Month

    for number in range(5):
        add(old, OLDER - timedelta(hours=number))
    store.put("archive/2025_05/run_2025_05.00099.jsonl.gz", b"left over")
    counts = archive_month(old, store, Month(datetime(2025, 5, 1, tzinfo=UTC)), chunk=1)
    names = sorted(name for batch in store.names("archive/2025_05") for name in batch)
    assert counts["run_2025_05"] == 5
    assert [name for name in names if "/run_2025" in name] == [
        f"archive/2025_05/run_2025_05.{n:05}.jsonl.gz" for n in range(5)
    ]


def test_without_the_store_nothing_is_dropped(old, s3_server, s3_url, tmp_path):
    run = add(old, OLDER)
    s3_server.stop()
    with pytest.raises(ObjectStoreUnreachable):
        pruner(old, tmp_path, store=ObjectStore(s3_url), archive=True).prune(90 * DAY)
    assert run in there(old)
    s3_server.start()
    assert (
        months(pruner(old, tmp_path, store=ObjectStore(s3_url), archive=True).prune(90 * DAY))["2025-05"] == "dropped"
    )


def test_a_month_that_changed_since_it_was_archived_is_kept(old, tmp_path, monkeypatch):
    add(old, OLDER)

    def archived_then_changed(engine, store, month):
        found = archive_month(engine, store, month)
        add(old, OLDER - timedelta(hours=1))
        return found

    monkeypatch.setattr("agentflow.retention.prune.archive_month", archived_then_changed)
    assert months(pruner(old, tmp_path, archive=True).prune(90 * DAY))["2025-05"] == "busy"
    assert len(there(old)) == 2


def test_tables_in_use_make_it_give_up_soon_and_hold_nobody_up(old, tmp_path):
    add(old, OLDER)
    with old.connect() as reader, reader.begin():
        reader.execute(text("SELECT count(*) FROM run"))
        assert months(pruner(old, tmp_path, tries=1).prune(90 * DAY)) == {"2025-05": "busy", "2025-06": "busy"}
        with old.begin() as other:
            other.execute(text("SELECT count(*) FROM run"))
    assert months(pruner(old, tmp_path).prune(90 * DAY)) == {"2025-05": "dropped", "2025-06": "dropped"}


def test_one_prunes_at_a_time(old, tmp_path):
    with old.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        with pytest.raises(Conflict, match="Somebody else prunes"):
            pruner(old, tmp_path).prune(90 * DAY)
        other.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
    assert pruner(old, tmp_path).prune(90 * DAY)["changed"]


@pytest.mark.parametrize(("days", "left"), [(90, 0), (0, 1)])
def test_the_duty_keeps_as_much_as_is_set(old, database_url, tmp_path, days, left):
    add(old, OLDER)
    settings = Settings(home=tmp_path, retention_days=days)
    duty = Retention(settings, database_url, ObjectStore(settings.object_store))
    duty.work()
    assert len(there(old)) == left


def test_a_working_scheduler_goes_on_while_months_are_dropped(database_url, tmp_path):
    site = Site(database_url, tmp_path)
    try:
        started = site.trigger({"name": "flow", "nodes": {"a": python("def main():\n    return 1\n")}})
        site.end(started)
        with site.engine.begin() as connection:
            ensure_partitions(connection, OLDER, months=1)
            history(connection, OLDER)
        many = python("def main(n):\n    return n\n", for_each=list(range(200)), config={"args": {"n": "{{ item }}"}})
        run = site.trigger({"name": "busy", "nodes": {"many": many, "after": {"type": "noop", "needs": ["many"]}}})
        site.wait(run, lambda shown: any(node["state"] == "success" for node in shown["nodes"]))
        cli = make_engine(database_url)
        told = pruner(cli, tmp_path, tries=30).prune(90 * DAY)
        cli.dispose()
        assert months(told) == {"2025-05": "dropped", "2025-06": "dropped"}
        assert site.end(run)["state"] == "success"
        assert {str(each) for each in there(site.engine)} == {started, run}
        assert {attempt for node in site.show(run)["nodes"] for attempt in [node["attempt"]]} <= {0, 1}
    finally:
        site.close()


def test_the_command_tells_what_it_did(old, database_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path))
    run = add(old, OLDER, state="running")
    assert main(["db", "prune", "--older-than", "90d", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {month["month"]: month["state"] for month in told["months"]} == {"2025-05": "open", "2025-06": "would-drop"}
    assert main(["db", "prune", "--older-than", "90d"]) == 0
    said = capsys.readouterr()
    assert "2025-06" in said.out
    assert f"2025-05 is kept by {run} of flow, which is running" in " ".join(said.err.split())
    assert main(["db", "prune", "--older-than", "ninety", "--json"]) == 2
    assert uuid.UUID(str(run)) in there(old)

"""Months: made ahead, filled by a run's own timestamp, dropped as a whole; and what happens when one was not made."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from agentflow.db.engine import make_engine
from agentflow.db.models.history import PARTITIONED
from agentflow.db.partitions import ensure_partitions, is_partition, month_start, rows_in_default
from agentflow.db.queries.starts import start_locked
from agentflow.ids import uuid7
from agentflow.runs import insert_run
from agentflow.states import TriggeredBy
from scheduler.duties import make_partitions
from tests.storage_kit import apply, make_spec, rows, value

NOW = datetime(2031, 11, 22, 12, tzinfo=UTC)  # far from the months that the template database was made with


@pytest.fixture
def version(engine):
    """A stored version of a -> b."""
    with engine.begin() as connection:
        apply(connection, make_spec(nodes={"a": {"type": "noop"}, "b": {"type": "noop", "needs": ["a"]}}))
        return rows(connection, "SELECT id AS version, workflow_id AS workflow FROM workflow_version")[0]


def insert(connection, version, at):
    """A started run whose id carries this time."""
    run = insert_run(
        connection,
        workspace=1,
        workflow=version.workflow,
        version=version.version,
        params={},
        triggered_by=TriggeredBy.CLI,
        now=at,
        actor="test",
    )
    start_locked(connection, [run])
    return run


def where(connection, run):
    """Table -> partitions that hold rows of this run."""
    return {
        table: {
            name
            for (name,) in rows(
                connection,
                f"SELECT tableoid::regclass::text FROM {table} WHERE {'id' if table == 'run' else 'run_id'} = :run",
                run=run,
            )
        }
        for table in ("run", "node_run", "run_event")
    }


def test_this_month_and_three_more_are_made_once(engine):
    with engine.begin() as connection:
        made = ensure_partitions(connection, NOW)
        assert made == [
            f"{table}_{month}" for month in ("2031_11", "2031_12", "2032_01", "2032_02") for table in PARTITIONED
        ]
        assert ensure_partitions(connection, NOW) == []
        assert ensure_partitions(connection, NOW + timedelta(days=10)) == [f"{t}_2032_03" for t in PARTITIONED]
        assert all(is_partition(name) for name in made)


def test_one_missing_table_of_a_month_is_made_alone(engine):
    with engine.begin() as connection:
        ensure_partitions(connection, NOW)
        connection.execute(text("DROP TABLE output_2031_12"))
        assert ensure_partitions(connection, NOW) == ["output_2031_12"]


def test_an_upgraded_database_has_this_month(engine):
    with engine.begin() as connection:
        now = value(connection, "SELECT clock_timestamp()")
        assert value(connection, "SELECT to_regclass(:name) IS NOT NULL", name=f"run_{now:%Y_%m}")
        assert ensure_partitions(connection, now) == []


@pytest.mark.parametrize(
    ("at", "month"),
    [
        (datetime(2031, 11, 1, tzinfo=UTC), "2031_11"),
        (datetime(2031, 12, 1, tzinfo=UTC) - timedelta(milliseconds=1), "2031_11"),
        (datetime(2031, 12, 1, tzinfo=UTC), "2031_12"),
        (datetime(2032, 1, 1, tzinfo=UTC) - timedelta(microseconds=1), "2031_12"),
        (datetime(2032, 1, 1, tzinfo=UTC), "2032_01"),
        (datetime(2032, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC), "2032_02"),
        (datetime(2032, 3, 1, tzinfo=UTC), "default"),
        (datetime(2031, 10, 31, 23, tzinfo=UTC), "default"),
    ],
)
def test_all_rows_of_a_run_land_in_the_month_of_its_id(engine, version, at, month):
    with engine.begin() as connection:
        ensure_partitions(connection, NOW)
        run = insert(connection, version, at)
        assert where(connection, run) == {t: {f"{t}_{month}"} for t in ("run", "node_run", "run_event")}
        assert rows_in_default(connection) == (month == "default")


def test_a_month_made_late_takes_its_rows_out_of_the_default_partition(engine, version):
    with engine.begin() as connection:
        mine = insert(connection, version, NOW)
        other = insert(connection, version, NOW - timedelta(days=365))
        before = rows(connection, "SELECT * FROM node_run ORDER BY run_id, node_no")
        assert rows_in_default(connection)
    with engine.begin() as connection:
        ensure_partitions(connection, NOW)
    with engine.begin() as connection:
        assert where(connection, mine)["node_run"] == {"node_run_2031_11"}
        assert where(connection, other)["run"] == {"run_default"}
        assert rows(connection, "SELECT * FROM node_run ORDER BY run_id, node_no") == before
        options = "SELECT reloptions FROM pg_class WHERE relname = :name"
        assert value(connection, options, name="run_2031_11") == value(connection, options, name="run_2031_12")
        indexes = "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass(:name)"
        assert value(connection, indexes, name="node_run_2031_11") == value(
            connection, indexes, name="node_run_2031_12"
        )
        ensure_partitions(connection, NOW - timedelta(days=365), months=0)
        assert not rows_in_default(connection)


def test_rows_in_the_default_partition_raise_an_alarm(engine, version, caplog):
    make_partitions(engine)
    assert "rows_in_default_partition" not in caplog.messages
    with engine.begin() as connection:
        insert(connection, version, NOW)
    make_partitions(engine)
    assert "rows_in_default_partition" in caplog.messages


def test_a_month_is_dropped_as_a_whole_and_the_others_stay(engine, version):
    with engine.begin() as connection:
        ensure_partitions(connection, NOW)
        gone = insert(connection, version, NOW)
        kept = insert(connection, version, NOW + timedelta(days=31))
    with engine.begin() as connection:
        for table in PARTITIONED:
            connection.execute(text(f"DROP TABLE {table}_2031_11"))
    with engine.begin() as connection:
        assert rows(connection, "SELECT id FROM run") == [(kept,)]
        assert not any(where(connection, gone).values())
        assert value(connection, "SELECT count(*) FROM node_run") == 2


def test_processes_that_make_partitions_at_once_do_not_disturb_each_other(engine, database_url):
    made, errors = [], []
    barrier = threading.Barrier(4)

    def work():
        mine = make_engine(database_url, pool_size=1)
        try:
            barrier.wait(30)
            with mine.begin() as connection:
                made.extend(ensure_partitions(connection, NOW))
        except DBAPIError as error:
            errors.append(error)
        finally:
            mine.dispose()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(made) == sorted(set(made))
    assert len(made) == 4 * len(PARTITIONED)


def test_uniqueness_holds_within_a_run_s_key(engine, version):
    with engine.begin() as connection:
        run = insert(connection, version, NOW)
        with pytest.raises(DBAPIError, match="duplicate key"), connection.begin_nested():
            connection.execute(text("INSERT INTO node_run SELECT * FROM node_run WHERE run_id = :run"), {"run": run})


@pytest.mark.parametrize("offset", [-14, -1, 0, 1, 2, 12])
def test_month_start_counts_months_over_years(offset):
    start = month_start(datetime(2031, 11, 30, 23, tzinfo=UTC), offset)
    assert (start.day, start.hour, start.tzinfo) == (1, 0, UTC)
    assert (start.year * 12 + start.month) - (2031 * 12 + 11) == offset


def test_an_id_made_now_lands_in_this_month(engine):
    with engine.begin() as connection:
        month = value(connection, "SELECT to_char(clock_timestamp(), 'YYYY_MM')")
        connection.execute(
            text("INSERT INTO output (run_id, node_no, map_index, value, bytes) VALUES (:run, 0, -1, '1', 1)"),
            {"run": uuid7()},
        )
        assert value(connection, "SELECT tableoid::regclass::text FROM output") == f"output_{month}"

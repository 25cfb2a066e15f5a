"""Runs as callers see them: created, shown, listed in pages, and their logs."""

from __future__ import annotations

import json
import uuid
import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text

from agentflow.catalog import set_paused, store_adhoc
from agentflow.catalog.graph import reserve_groups
from agentflow.db.queries.queued import SMALL, start_small, start_waiting
from agentflow.db.queries.schedulers import release_reservations
from agentflow.db.queries.starts import start_locked
from agentflow.errors import Conflict, NotFound, ParamError, UsageError
from agentflow.ids import uuid7
from agentflow.runs import cancel_run, insert_run, list_runs, read_logs, rerun, set_note, show_run
from agentflow.states import TriggeredBy
from tests.storage_kit import apply, create, make_spec, rows, value

PARAMS = {
    "city": {"type": "string", "default": "Berlin"},
    "n": {"type": "integer"},
    "any": {"default": None},
}
CHAIN = {"first": {"type": "noop"}, "a": {"type": "noop", "needs": ["first"]}, "last": {"type": "noop", "needs": ["a"]}}
RUN_KEYS = {
    "id",
    "workflow",
    "version",
    "state",
    "triggered_by",
    "params",
    "logical_date",
    "created_at",
    "started_at",
    "finished_at",
}
NODE_KEYS = {
    "node",
    "map_index",
    "state",
    "attempt",
    "executor",
    "ready_at",
    "queued_at",
    "started_at",
    "finished_at",
    "output",
    "error",
}


@pytest.fixture
def flow(connection):
    """A stored chain of three nodes with params."""
    apply(connection, make_spec(nodes=CHAIN, params=PARAMS))
    return connection


def new(connection, **keywords):
    return create(connection, params={"n": 1}, **keywords)


# -- creating ----------------------------------------------------------------------------------------------------------
def test_a_run_takes_defaults_and_has_the_shape_of_the_contract(flow):
    made = create(flow, params={"n": 3}, note="by hand")
    assert made.keys() >= RUN_KEYS
    assert {key: made[key] for key in ("workflow", "version", "state", "triggered_by", "logical_date", "note")} == {
        "workflow": "flow",
        "version": 1,
        "state": "queued",
        "triggered_by": "cli",
        "logical_date": None,
        "note": "by hand",
    }
    assert made["params"] == {"city": "Berlin", "n": 3, "any": None}
    assert uuid.UUID(made["id"]).version == 7
    assert made["created_at"].endswith("Z")
    assert (made["started_at"], made["finished_at"], made["paused"]) == (None, None, False)
    assert tuple(rows(flow, "SELECT actor, action, subject FROM audit_event ORDER BY id DESC LIMIT 1")[0]) == (
        "test",
        "run.created",
        made["id"],
    )


def test_all_wrong_params_are_told_at_once_and_nothing_is_stored(flow):
    with pytest.raises(ParamError) as error:
        create(flow, params={"city": 5, "x": 1})
    assert sorted(problem.path for problem in error.value.problems) == ["city", "n", "x"]
    assert value(flow, "SELECT count(*) FROM run") == 0


@pytest.mark.parametrize("given", ["Ü\U0001f600", {"deep": [1, 2.5, None, True, {"": "x"}]}, 2**70, 1e308, "1"])
def test_params_come_back_as_they_were_given(flow, given):
    made = create(flow, params={"n": 1, "any": given})
    assert show_run(flow, made["id"])["params"]["any"] == given


@pytest.mark.parametrize(
    "given", [float("nan"), float("inf"), {"x": [float("-inf")]}, "\u0000", "\ud800", {"\u0000": 1}]
)
def test_params_that_cannot_be_stored_are_wrong(flow, given):
    with pytest.raises(ParamError):
        create(flow, params={"n": 1, "any": given})


def test_a_run_of_a_paused_workflow_is_accepted_and_stays_queued(flow):
    set_paused(flow, "flow", True, "test")
    made = new(flow)
    assert made["paused"] is True
    start_waiting(flow)
    assert show_run(flow, made["id"])["state"] == "queued"
    set_paused(flow, "flow", False, "test")
    start_waiting(flow)
    assert show_run(flow, made["id"])["state"] == "running"


def test_an_unknown_workflow_is_not_found_nor_is_an_adhoc_one(flow):
    store_adhoc(flow, make_spec("hidden"), bundle=None, actor="cli:me")
    for name in ("none", "hidden"):
        with pytest.raises(NotFound):
            create(flow, name)


DATE = datetime(2026, 11, 22, tzinfo=UTC)


def test_a_logical_date_by_hand_is_unique_per_workflow(engine):
    with engine.begin() as connection:
        for name in ("flow", "other"):
            apply(connection, make_spec(name))
        first = create(connection, logical_date=DATE)
        create(connection, "other", logical_date=DATE)
        create(connection, logical_date=DATE + timedelta(seconds=1))
        assert first["logical_date"] == "2026-11-22T00:00:00.000000Z"
    same = DATE.astimezone(timezone(timedelta(hours=9)))
    with pytest.raises(Conflict, match="2026-11-22") as error, engine.begin() as connection:
        create(connection, logical_date=same)
    assert error.value.hint
    with engine.begin() as connection:
        assert value(connection, "SELECT count(*) FROM run") == 3
        assert value(connection, "SELECT count(*) FROM audit_event WHERE action = 'run.created'") == 3


@pytest.mark.parametrize("by", [TriggeredBy.CRON, TriggeredBy.BACKFILL])
def test_a_logical_date_that_has_a_run_already_is_refused_by_hand_whoever_made_it(flow, by):
    ((workflow, version),) = rows(flow, "SELECT id, published_version_id FROM workflow")
    insert(flow, workflow, version, logical_date=DATE, triggered_by=by)
    with pytest.raises(Conflict, match="2026-11-22"), flow.begin_nested():
        new(flow, logical_date=DATE)
    new(flow, logical_date=DATE + timedelta(days=1))


def test_a_rerun_has_the_version_and_params_of_the_run_not_of_today(flow):
    first = create(flow, params={"n": 7}, logical_date=DATE)
    apply(flow, make_spec(nodes=CHAIN, params={"other": {"type": "string"}}))
    again = rerun(flow, first["id"], actor="test")
    assert (again["version"], again["params"], again["logical_date"]) == (1, first["params"], None)
    assert again["id"] != first["id"]
    assert first["id"] in again["note"]


def test_what_cannot_be_run_again(flow):
    workflow, version = store_adhoc(flow, make_spec("hidden"), bundle=None, actor="cli:me")
    adhoc = insert(flow, workflow, version, reserved_for=uuid7())
    with pytest.raises(Conflict, match="file"):
        rerun(flow, str(adhoc), actor="test")
    for unknown in (str(uuid7()), "nonsense"):
        with pytest.raises(NotFound):
            rerun(flow, unknown, actor="test")


def insert(connection, workflow, version, **keywords):
    """A run's row, made directly."""
    return insert_run(
        connection,
        workspace=1,
        workflow=workflow,
        version=version,
        params={},
        actor="test",
        **{"triggered_by": TriggeredBy.CLI, "now": datetime.now(UTC), **keywords},
    )


@pytest.mark.parametrize(
    "skew", [timedelta(0), timedelta(minutes=30)], ids=["clocks agree", "the database's is behind"]
)
def test_runs_reserved_for_a_scheduler_that_is_gone_are_handed_to_everybody(flow, skew):
    owner, other = uuid7(), uuid7()
    workflow, version = store_adhoc(flow, make_spec("hidden", nodes=CHAIN), bundle=None, actor="cli:me")
    now = datetime.now(UTC) - skew
    for scheduler in (owner, other):
        reserve_groups(flow, version, scheduler)
    mine, theirs = (insert(flow, workflow, version, reserved_for=s, now=now) for s in (owner, other))
    start_locked(flow, [mine, theirs])
    reserved = (
        "SELECT count(*) FROM node_run n JOIN dispatch_group g ON g.id = n.group_id WHERE g.reserved_for = :owner"
    )
    assert [value(flow, reserved, owner=scheduler) for scheduler in (owner, other)] == [3, 3]
    release_reservations(flow, [owner])
    assert [value(flow, reserved, owner=scheduler) for scheduler in (owner, other)] == [0, 3]
    groups = "SELECT DISTINCT g.reserved_for FROM node_run n JOIN dispatch_group g ON g.id = n.group_id WHERE n.run_id = :run"
    assert rows(flow, groups, run=mine) == [(None,)]
    assert dict(tuple(row) for row in rows(flow, "SELECT id, reserved_for FROM run")) == {mine: None, theirs: other}
    assert value(flow, "SELECT count(*) FROM dispatch_group WHERE reserved_for = :owner", owner=owner) == 0


# -- showing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cancelled", "state", "node_state"), [(False, "queued", "pending"), (True, "cancelled", "cancelled")]
)
def test_a_run_that_never_started_shows_the_nodes_of_its_version(flow, cancelled, state, node_state):
    made = new(flow)
    if cancelled:
        cancel_run(flow, made["id"], actor="test")
    shown = show_run(flow, made["id"])
    assert shown["state"] == state
    assert (shown["finished_at"] is not None) is cancelled
    assert [node["node"] for node in shown["nodes"]] == ["first", "a", "last"]
    for node in shown["nodes"]:
        assert node.keys() >= NODE_KEYS
        assert (node["state"], node["attempt"], node["map_index"]) == (node_state, 0, None)
        assert {node[key] for key in ("executor", "ready_at", "queued_at", "output", "error")} == {None}
    assert value(flow, "SELECT count(*) FROM node_run") == 0


def test_a_started_run_shows_its_node_runs_in_spec_order(flow):
    made = new(flow)
    start_waiting(flow)
    shown = show_run(flow, made["id"])
    assert shown["state"] == "running"
    assert shown["started_at"]
    assert [(node["node"], node["state"]) for node in shown["nodes"]] == [
        ("first", "ready"),
        ("a", "pending"),
        ("last", "pending"),
    ]


def test_outputs_are_shown_whole_up_to_a_size_and_as_a_reference_above(flow):
    made = new(flow)
    start_waiting(flow)
    small, large = {"rows": [1, 2.0, None], "text": "Ü"}, "x" * 70_000
    for number, output in enumerate((small, large)):
        document = json.dumps(output, ensure_ascii=False)
        flow.execute(
            text("INSERT INTO output VALUES (:run, :no, -1, CAST(:value AS json), :bytes)"),
            {"run": made["id"], "no": number, "value": document, "bytes": len(document.encode())},
        )
    first, second, third = (node["output"] for node in show_run(flow, made["id"])["nodes"])
    assert first == small
    assert second.keys() == {"$ref", "bytes", "preview"}
    assert second["bytes"] == 70_002
    assert second["preview"].startswith('"xxx')
    assert len(second["preview"]) == 1000
    assert third is None


@pytest.mark.parametrize("unknown", ["nonsense", "", "019aa8b1-0000-7000-8000-000000000001"])
def test_an_unknown_run_is_not_found(flow, unknown):
    for ask in (show_run, lambda c, run: list(read_logs(c, run)), lambda c, run: cancel_run(c, run, actor="test")):
        with pytest.raises(NotFound) as error:
            ask(flow, unknown)
        assert error.value.hint


def test_notes_are_kept_and_bounded(flow):
    made = new(flow)
    set_note(flow, made["id"], "checked", actor="test")
    assert show_run(flow, made["id"])["note"] == "checked"
    set_note(flow, made["id"], "", actor="test")
    assert show_run(flow, made["id"])["note"] is None
    with pytest.raises(UsageError):
        set_note(flow, made["id"], "x" * 10_001, actor="test")


# -- listing -----------------------------------------------------------------------------------------------------------
def pages(connection, **filters):
    """The ids of every page."""
    found, cursor = [], None
    while True:
        items, cursor = list_runs(connection, cursor=cursor, **filters)
        found.append([run["id"] for run in items])
        if cursor is None:
            return found


def test_pages_neither_repeat_nor_lose_runs_of_one_millisecond(flow):
    ((workflow, version),) = rows(flow, "SELECT id, published_version_id FROM workflow")
    now = datetime.now(UTC)
    ids = sorted((str(insert(flow, workflow, version, now=now)) for _ in range(25)), reverse=True)
    assert len({run[:13] for run in ids}) == 1
    for limit in (1, 7, 24, 25, 26):
        found = pages(flow, limit=limit)
        assert [run for page in found for run in page] == ids
        assert all(len(page) == limit for page in found[:-1])
        assert found[-1]


def test_a_cursor_goes_on_where_it_was_while_newer_runs_arrive(flow):
    older = [new(flow)["id"] for _ in range(4)]
    expected = sorted(older, reverse=True)
    items, cursor = list_runs(flow, limit=2)
    new(flow)
    following, cursor = list_runs(flow, limit=2, cursor=cursor)
    assert [run["id"] for run in items + following] == expected
    assert cursor is None


def test_pages_go_over_months_the_newest_first(flow):
    ((workflow, version),) = rows(flow, "SELECT id, published_version_id FROM workflow")
    months = [datetime(2026, month, 5, tzinfo=UTC) for month in (3, 11, 7)]
    ids = sorted((str(insert(flow, workflow, version, now=month)) for month in months), reverse=True)
    assert [run for page in pages(flow, limit=2) for run in page] == ids


def test_filters_by_workflow_and_state(flow):
    apply(flow, make_spec("other"))
    mine, other = new(flow)["id"], create(flow, "other")["id"]
    cancel_run(flow, other, actor="test")
    assert pages(flow, workflow="flow") == [[mine]]
    assert pages(flow, states=["cancelled"]) == [[other]]
    assert pages(flow, workflow="flow", states=["cancelled"]) == [[]]
    with pytest.raises(NotFound) as error:
        list_runs(flow, workflow="flwo")
    assert "flow" in error.value.hint


def test_runs_of_files_are_hidden_unless_asked_for(flow):
    workflow, version = store_adhoc(flow, make_spec("flow"), bundle=None, actor="cli:me")
    hidden = str(insert(flow, workflow, version, reserved_for=uuid7()))
    shown = new(flow)["id"]
    assert pages(flow) == [[shown]]
    assert sorted(pages(flow, hidden=True)[0]) == sorted([shown, hidden])
    assert show_run(flow, hidden)["workflow"] == "flow"


@pytest.mark.parametrize("cursor", ["nonsense", "%%%", "ä", "AAAA", "019aa8b1-0000-7000-8000-000000000001"])
def test_a_cursor_that_is_none_is_wrong_usage(flow, cursor):
    with pytest.raises(UsageError) as error:
        list_runs(flow, cursor=cursor)
    assert "next_cursor" in error.value.hint


# -- logs --------------------------------------------------------------------------------------------------------------
def store(connection, run, node, attempt, chunk, lines):
    """A chunk of log lines `(seq, text)`."""
    data = "".join(json.dumps([seq, 1795327200.5, "stdout", "info", line]) + "\n" for seq, line in lines)
    connection.execute(
        text("INSERT INTO log_chunk VALUES (:run, :node, -1, :attempt, :chunk, :first, :lines, 0, :data)"),
        {
            "run": run,
            "node": node,
            "attempt": attempt,
            "chunk": chunk,
            "first": lines[0][0],
            "lines": len(lines),
            "data": zlib.compress(data.encode()),
        },
    )


def texts(connection, *arguments, **keywords):
    return [line["text"] for line in read_logs(connection, *arguments, **keywords)]


@pytest.fixture
def logged(flow):
    """Id of a run whose first node was tried twice."""
    run = new(flow)["id"]
    start_waiting(flow)
    store(flow, run, 1, 1, 0, [(1, "a1")])
    store(flow, run, 0, 2, 0, [(1, "again")])
    store(flow, run, 0, 1, 1, [(4, "four"), (5, "five")])
    store(flow, run, 0, 1, 0, [(1, "one"), (2, "two"), (3, "three")])
    return run


def test_lines_come_by_node_attempt_and_number(flow, logged):
    assert texts(flow, logged) == ["one", "two", "three", "four", "five", "again", "a1"]
    assert next(read_logs(flow, logged)) == {
        "node": "first",
        "map_index": None,
        "attempt": 1,
        "seq": 1,
        "at": "2026-11-22T06:00:00.500000Z",
        "stream": "stdout",
        "level": "info",
        "text": "one",
    }


@pytest.mark.parametrize(
    ("node", "attempt", "after", "expected"),
    [
        ("first", None, 0, ["one", "two", "three", "four", "five", "again"]),
        ("first", 1, 0, ["one", "two", "three", "four", "five"]),
        ("first", 1, 2, ["three", "four", "five"]),
        ("first", 1, 3, ["four", "five"]),
        ("first", 1, 4, ["five"]),
        ("first", 1, 5, []),
        ("first", 9, 0, []),
        ("a", None, 0, ["a1"]),
        ("last", None, 0, []),
    ],
)
def test_logs_of_a_node_an_attempt_and_after_a_line(flow, logged, node, attempt, after, expected):
    assert texts(flow, logged, node, attempt, after=after) == expected


@pytest.mark.parametrize(
    ("after", "until", "expected"),
    [
        (0, 1, ["one"]),
        (1, 3, ["two", "three"]),
        (2, 2, []),
        (3, 99, ["four", "five"]),
    ],
)
def test_a_range_of_lines_is_read(flow, logged, after, until, expected):
    assert texts(flow, logged, "first", 1, after=after, until=until) == expected


def test_logs_of_an_unknown_node_are_not_found(flow, logged):
    with pytest.raises(NotFound, match="nobody"):
        texts(flow, logged, "nobody")


def test_only_the_runs_own_lines_are_read(flow, logged):
    other = new(flow)["id"]
    assert texts(flow, other) == []


def test_the_loop_starts_small_runs_itself_and_leaves_large_ones_to_the_starter(connection):
    apply(connection, make_spec("small"))
    apply(connection, make_spec("large", nodes={f"n{number}": {"type": "noop"} for number in range(SMALL + 1)}))
    for name in ("small", "large"):
        create(connection, name)
    start_small(connection, [])
    states = dict(
        tuple(row)
        for row in rows(connection, "SELECT w.name, r.state FROM run r JOIN workflow w ON w.id = r.workflow_id")
    )
    assert states == {"small": "running", "large": "queued"}
    start_waiting(connection)
    assert value(connection, "SELECT count(*) FROM run WHERE state = 'running'") == 2

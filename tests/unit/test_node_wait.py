"""One turn of a `wait` node, where attempts run."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.nodes import wait, wait_http
from agentflow.nodes.base import NodeContext, NodeDeferred, NodeFailed, NodeSkipped
from agentflow.nodes.wait import WaitConfig, WaitNode
from agentflow.nodes.wait_conditions import FileCondition
from agentflow.nodes.wait_file import look_at_files
from agentflow.nodes.wait_sql import libpq_fields
from agentflow.runner.attempt import run_attempt
from agentflow.runner.masking import Masker
from agentflow.workload import ConnectionFields, Outcome, Turn, Workload

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def config(**keys):
    return WaitConfig.model_validate({name.rstrip("_"): value for name, value in keys.items()})


def turn(given, **context):
    """What a turn comes to: its output, or what it raised."""
    try:
        return WaitNode().run(given, NodeContext(**context))
    except (NodeDeferred, NodeFailed, NodeSkipped) as raised:
        return raised


@pytest.mark.parametrize(
    ("keys", "due"),
    [
        ({"for_": "90s"}, NOW + timedelta(seconds=90)),
        ({"for_": "PT1H"}, NOW + timedelta(hours=1)),
        ({"until": "2026-11-22T13:00:00Z"}, NOW + timedelta(hours=1)),
        ({"until": "2026-11-22T13:00:00+01:00"}, NOW),
        ({"until": "2026-11-22T13:00:00"}, NOW + timedelta(hours=1)),
        ({"until": "2020-01-01"}, datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_wait_is_due_after_its_duration_or_at_its_time_in_utc(keys, due):
    assert config(**keys).due_at(NOW) == due


def test_a_time_without_an_offset_is_in_utc_wherever_the_machine_is(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert config(until="2026-11-22T12:00:00").until == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("waited", "after"), [(0, 150), (100, 50), (150, None), (1e6, None)])
def test_a_version_from_before_waits_for_a_duration_in_turns(waited, after):
    found = turn(config(for_="150s"), waited=waited)
    if after is None:
        assert found["waited_s"] == pytest.approx(waited, abs=1)
    else:
        assert found.after == pytest.approx(after, abs=1)


def test_a_version_from_before_waits_for_a_time_in_turns(monkeypatch):
    monkeypatch.setattr(wait, "utc_now", lambda: NOW)
    assert turn(config(until="2026-11-22T12:02:30Z")).after == 150
    assert turn(config(until="2026-11-22T12:00:00Z"), waited=7)["waited_s"] == pytest.approx(7, abs=1)


def test_no_executor_waits_for_a_run():
    assert "the scheduler's own" in str(turn(config(run="01890000-0000-7000-8000-000000000000")))


@pytest.mark.parametrize(
    ("keys", "limit"),
    [
        ({"for_": "1s"}, None),
        ({"until": "2026-01-01"}, None),
        ({"file": "/x"}, timedelta(days=7)),
        ({"http": {"url": "https://x.org"}}, timedelta(days=7)),
        ({"run": {"workflow": "x"}}, timedelta(days=7)),
        ({"run": {"workflow": "x"}, "timeout": "1h"}, timedelta(hours=1)),
        ({"for_": "1s", "timeout": "1h"}, timedelta(hours=1)),
    ],
)
def test_how_long_each_kind_waits(keys, limit):
    assert config(**keys).gives_up_after == limit


# -- looking again --------------------------------------------------------------------------------------------------


def test_a_condition_that_does_not_hold_is_looked_at_again(tmp_path):
    lines = []
    keys = {"file": str(tmp_path / "x"), "poke_interval": "5s"}
    found = turn(config(**keys), log=lambda text, **_: lines.append(text))
    reason = f"there is nothing at {tmp_path}/x"
    assert (found.after, found.state) == (5, reason)
    assert lines == [f"not yet: {reason}"]
    turn(config(**keys), state=reason, log=lambda text, **_: lines.append(text))
    assert len(lines) == 1  # said once, not at every look
    (tmp_path / "x").touch()
    assert turn(config(**keys), waited=60.0)["waited_s"] == pytest.approx(60, abs=2)


def test_the_last_look_is_when_it_gives_up(tmp_path):
    given = config(file=str(tmp_path / "x"), timeout="90s")
    assert turn(given, waited=80.0).after == pytest.approx(10, abs=1)
    failed = turn(given, waited=90.0)
    assert (failed.kind, str(failed)) == ("Timeout", f"gave up after 90s: there is nothing at {tmp_path}/x")
    (tmp_path / "x").touch()
    assert turn(given, waited=90.0)["waited_s"] >= 90


def test_soft_fail_skips(tmp_path):
    given = config(file=str(tmp_path / "x"), timeout="90s", soft_fail=True)
    assert isinstance(turn(given, waited=90.0), NodeSkipped)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 367 * 86400, timedelta(seconds=-1)])
def test_no_node_is_deferred_for_ever(after):
    with pytest.raises(ValueError, match="can be deferred by 0 to"):
        NodeDeferred(after)


# -- files ----------------------------------------------------------------------------------------------------------


def look(**keys):
    return asyncio.run(look_at_files(FileCondition.model_validate(keys)))


def test_files_are_found_by_name_pattern_size_and_age(tmp_path):
    path = tmp_path / "day-1.csv"
    path.write_text("12345")
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert look(path=str(path)) is None
    assert look(path=str(tmp_path)) is None
    assert look(path=str(tmp_path / "day-*.csv")) is None
    assert look(path=str(tmp_path / "day-[2-9].csv")) == f"there is nothing at {tmp_path}/day-[2-9].csv"
    assert look(path=str(path), min_size=5) is None
    assert look(path=str(path), min_size=6) == f"{path} has 5 bytes, fewer than 6"
    assert look(path=str(path), newer_than="2026-11-22T11:59:59Z") is None
    assert look(path=str(path), newer_than="2026-11-22T12:00:00Z") == f"{path} is not newer than {NOW.isoformat()}"
    (tmp_path / "day-0.csv").touch()
    assert look(path=str(tmp_path / "day-*.csv"), min_size=5) is None  # one that fits is enough


def test_a_name_that_leads_nowhere_is_not_there_yet(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "there is nothing" in look(path=str(tmp_path / "link"))
    assert "cannot be looked at" in look(path=str(tmp_path / "file" / "below"))


# -- servers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "condition", "found"),
    [
        ({"status": 200, "body": {"ready": True}}, None, None),
        ({"status": 200, "body": {"ready": True}}, "{{ response.body.ready }}", None),
        ({"status": 200, "body": {"ready": False}}, "{{ response.body.ready }}", "does not fulfil the condition"),
        ({"status": 200, "body": {"ready": None}}, "{{ response.body.ready }}", "does not fulfil the condition"),
        (NodeFailed("GET x answered 503; the body begins: no", kind="HttpStatus"), None, "GET x answered 503"),
        (NodeFailed("refused", kind="ConnectError"), None, "refused"),
    ],
)
def test_a_look_at_a_server(monkeypatch, answer, condition, found):
    async def exchange(given, context):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(wait_http, "exchange", exchange)
    result = turn(config(http={"url": "https://x.org"} | ({"condition": condition} if condition else {})))
    assert (result["waited_s"] < 5) if found is None else (found in result.state)
    assert found is None or "begins" not in result.state


@pytest.mark.parametrize("kind", ["AddressRefused", "InvalidUrl"])
def test_what_no_answer_can_change_fails_at_once(monkeypatch, kind):
    async def exchange(given, context):
        raise NodeFailed("never", kind=kind)

    monkeypatch.setattr(wait_http, "exchange", exchange)
    assert turn(config(http={"url": "https://x.org"})).kind == kind


def test_private_addresses_are_refused_as_by_http_nodes():
    assert turn(config(http={"url": "http://127.0.0.1:1/"})).kind == "AddressRefused"


# -- databases ------------------------------------------------------------------------------------------------------

SQL = {"connection": "dwh", "query": "SELECT 1"}


def test_without_psycopg_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    failed = turn(config(sql=SQL), connections={"dwh": {"type": "postgres"}})
    assert failed.kind == "PsycopgMissing"
    assert "pip install" in str(failed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "http"}, "is of type 'http', not postgres"),
        ({}, "not postgres"),
        ({"type": "postgres", "hots": "x"}, "has a field `hots`; known: host, port"),
    ],
)
def test_a_connection_of_another_kind_is_refused(given, message):
    with pytest.raises(NodeFailed, match=message):
        libpq_fields("dwh", given)


def test_fields_of_a_connection_in_libpqs_words():
    given = {"type": "postgres", "host": "h", "port": 5433, "database": "d", "user": "u", "password": "p"}
    assert libpq_fields("dwh", given) == {"host": "h", "port": "5433", "dbname": "d", "user": "u", "password": "p"}


# -- in the runner ----------------------------------------------------------------------------------------------------


def workload(**fields):
    plain = {"attempt_id": "r/0/-1/1", "token": "t", "run_id": "r", "workspace": "w", "workflow": "f", "version": 1}
    return Workload(**plain | {"node": "n", "attempt": 1, "type": "wait"} | fields)


def run(given, tmp_path):
    lines = []
    mask = Masker(given.hidden.values())
    result = run_attempt(
        given, work_dir=tmp_path, bundle_dir=None, log=lambda text, **_: lines.append(mask(text)), mask=mask
    )
    return result, "\n".join(lines)


def test_what_a_turn_leaves_holds_no_secret(tmp_path):
    path = str(tmp_path / "{{ secrets.name }}")
    result, log = run(workload(config={"file": path}, secrets={"name": "hunter2-hunter2"}), tmp_path)
    assert result.outcome is Outcome.DEFERRED
    assert "hunter2" not in result.deferral.model_dump_json() + log


def test_secret_fields_of_a_connection_are_hidden_as_secrets_are(tmp_path):
    fields = ConnectionFields(
        fields={"type": "postgres", "host": "127.0.0.1", "port": 1}, secrets={"password": "hunter2-hunter2"}
    )
    given = workload(config={"sql": SQL}, connections={"dwh": fields}, turn=Turn(waited=5.0))
    assert given.hidden == {"dwh.password": "hunter2-hunter2"}
    assert "hunter2" not in repr(given)
    result, log = run(given, tmp_path)
    assert result.outcome is Outcome.DEFERRED, result
    assert "the database cannot be asked" in log
    assert "hunter2" not in result.deferral.model_dump_json() + log


def test_a_state_that_is_no_json_fails_the_attempt(tmp_path, monkeypatch):
    async def arun(self, given, context):
        raise NodeDeferred(5, state={"x": float("nan")})

    monkeypatch.setattr(WaitNode, "arun", arun)
    result, _ = run(workload(config={"for": "1s"}), tmp_path)
    assert result.outcome is Outcome.FAILED
    assert result.error.type == "OutputInvalid"

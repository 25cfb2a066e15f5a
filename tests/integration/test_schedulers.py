"""Several schedulers: queues that some of them serve, who takes part, and what waits for nobody."""

from __future__ import annotations

import json
import logging

import pytest
from sqlalchemy import text

from agentflow.catalog import count_alive, describe_unserved, list_schedulers, set_paused, unserved
from agentflow.cli import main
from scheduler.duties import Unserved
from tests.engine_kit import Kit

NODES = {"small": {}, "large": {"queue": "big"}, "end": {"needs": ["small", "large"]}}


@pytest.fixture(autouse=True)
def _alone(kit):
    """Schedulers of earlier tests are gone."""
    kit.sql("DELETE FROM scheduler WHERE id <> :id", id=kit.identity.id)


@pytest.fixture
def make_kit(shared_engine, tmp_path):
    """More schedulers on the same database."""
    made = []

    def make(**options):
        made.append(Kit(shared_engine, tmp_path / f"more-{len(made)}", **options))
        return made[-1]

    yield make
    for kit in made:
        kit.close()


def silence(kit, seconds=9):
    kit.sql(f"UPDATE scheduler SET beat_at = beat_at - interval '{seconds} s' WHERE id = :id", id=kit.identity.id)


class TestQueues:
    def test_a_node_goes_to_a_scheduler_that_serves_its_queue(self, kit, make_kit):
        big = make_kit(queues="big")
        kit.apply(NODES)
        run = kit.run()
        assert kit.states(run) == {"small": "success", "large": "ready", "end": "pending"}
        big.settle()
        assert kit.states(run) == {"small": "success", "large": "success", "end": "ready"}
        kit.settle()
        assert kit.state(run) == "success"
        assert (kit.started(), big.started()) == (["small", "end"], ["large"])

    def test_a_scheduler_may_serve_several_and_a_workflow_names_one_for_all_its_nodes(self, kit, make_kit):
        both = make_kit(queues="big, default")
        kit.apply(NODES | {"near": {"queue": "default"}}, queue="far")
        run = kit.run()
        assert kit.started() == ["near"]
        both.settle()
        assert both.started() == ["large"]
        far = make_kit(queues="far")
        far.settle()
        assert kit.state(run) == "success"
        assert far.started() == ["small", "end"]

    def test_retries_and_indexes_stay_in_their_queue(self, kit, make_kit):
        big = make_kit(queues="big")
        kit.apply({"a": {"queue": "big", "for_each": [1, 2, 3], "retries": 1, "retry_delay": "0s"}})
        run = kit.run()
        big.settle()
        assert kit.state(run) == "success"
        assert (kit.started(), len(big.started())) == ([], 3)


class TestUnserved:
    def test_a_queue_that_nobody_serves_is_named_with_what_waits(self, kit):
        kit.apply(NODES)
        kit.run()
        (found,) = kit.call(unserved)
        assert found == {"queue": "big", "executor": None, "workflows": ["flow"]}
        assert "AGENTFLOW_QUEUES=big" in describe_unserved(found)

    def test_an_executor_that_nobody_has_is_named_too(self, kit):
        kit.apply({"a": {"executor": "local"}})
        kit.run()
        (found,) = kit.call(unserved)
        assert (found["queue"], found["executor"]) == ("default", "local")
        assert "AGENTFLOW_EXECUTORS=local" in describe_unserved(found)

    def test_one_living_scheduler_is_enough(self, kit, make_kit):
        big = make_kit(queues="big")
        kit.apply(NODES)
        kit.run()
        assert kit.call(unserved) == []
        silence(big)
        assert [one["queue"] for one in kit.call(unserved)] == ["big"]

    def test_what_does_not_wait_for_a_scheduler_is_left_out(self, kit):
        kit.apply(NODES)
        kit.call(set_paused, "flow", True, actor="test")
        kit.sql("UPDATE workflow SET paused = false")
        run = kit.run()
        kit.call(set_paused, "flow", True, actor="test")
        assert kit.states(run)["large"] == "ready"
        assert kit.call(unserved) == []

    def test_run_file_serves_only_itself(self, kit, make_kit):
        make_kit(queues="big", reserved=True)
        kit.apply(NODES)
        kit.run()
        assert [one["queue"] for one in kit.call(unserved)] == ["big"]
        assert kit.call(count_alive) == 1

    def test_the_log_warns_once_until_it_changes(self, kit, make_kit, caplog):
        kit.apply(NODES)
        kit.run()
        duty = Unserved(kit.engine)
        with caplog.at_level(logging.WARNING):
            duty.look()
            duty.look()
            assert [record.message for record in caplog.records] == ["queue_unserved"]
            big = make_kit(queues="big")
            duty.look()
            silence(big)
            duty.look()
        assert [record.queue for record in caplog.records] == ["big", "big"]


class TestList:
    def test_each_scheduler_says_who_it_is_and_what_it_does(self, kit, make_kit):
        big = make_kit(queues="big,huge", parallelism=7)
        big.stub.hold("a")
        kit.apply({"a": {"queue": "big"}})
        kit.create()
        big.settle()
        found = {one["id"]: one for one in kit.call(list_schedulers)[0]}
        one = found[str(big.identity.id)]
        expected = {"state": "alive", "executors": ["stub"], "queues": ["big", "huge"], "parallelism": 7, "attempts": 1}
        assert expected.items() <= one.items()
        assert 0 <= one["beat_age"] < 60
        assert found[str(kit.identity.id)]["attempts"] == 0

    def test_a_silent_one_is_dead_and_the_ended_ones_go_after_an_hour(self, kit, make_kit):
        silent, stopped, old = make_kit(), make_kit(), make_kit()
        silence(silent)
        for each in (stopped, old):
            kit.sql("UPDATE scheduler SET state = 'stopped' WHERE id = :id", id=each.identity.id)
        silence(old, 3601)
        names = {str(each.identity.id): name for each, name in [(kit, "me"), (silent, "silent"), (stopped, "stopped")]}
        found, _ = kit.call(list_schedulers, ended_within=3600)
        assert {names[one["id"]]: one["state"] for one in found} == {
            "me": "alive",
            "silent": "dead",
            "stopped": "stopped",
        }
        assert len(kit.call(list_schedulers)[0]) == 4

    def test_what_those_have_that_are_gone_is_not_looked_for(self, kit, make_kit, connection):
        gone = make_kit()
        kit.sql("UPDATE scheduler SET state = 'dead' WHERE id = :id", id=gone.identity.id)
        connection.execute(
            text("""
            CREATE OR REPLACE FUNCTION scheduler_load(scheduler uuid, OUT attempts int, OUT slots int)
            LANGUAGE sql AS 'SELECT 7, 7'""")
        )
        found = {one["id"]: one["attempts"] for one in list_schedulers(connection)[0]}
        assert found == {str(kit.identity.id): 7, str(gone.identity.id): 0}


@pytest.fixture
def cli(kit, monkeypatch, tmp_path, capsys):
    """The command line on the kit's database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", kit.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))

    def call(*arguments):
        capsys.readouterr()
        code = main.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


class TestCommands:
    def test_schedulers_lists_them_and_names_what_nobody_serves(self, kit, cli):
        kit.apply(NODES)
        kit.run()
        code, out, _ = cli("schedulers", "--json")
        document = json.loads(out)
        assert code == 0
        assert [one["id"] for one in document["items"]] == [str(kit.identity.id)]
        assert [one["queue"] for one in document["unserved"]] == ["big"]
        code, out, note = cli("schedulers")
        assert str(kit.identity.id) in out
        assert "AGENTFLOW_QUEUES=big" in note

    def test_doctor_warns_of_it(self, kit, cli):
        kit.apply(NODES)
        kit.run()
        _, out, _ = cli("doctor", "--json")
        found = {check["name"]: check for check in json.loads(out)["checks"]}
        assert found["queues"]["status"] == "warning"
        assert "AGENTFLOW_QUEUES=big" in found["queues"]["hint"]

    def test_doctor_is_content_when_all_queues_are_served(self, kit, cli, make_kit):
        make_kit(queues="big")
        kit.apply(NODES)
        kit.run()
        _, out, _ = cli("doctor", "--json")
        found = {check["name"]: check["status"] for check in json.loads(out)["checks"]}
        assert (found["scheduler"], found["queues"]) == ("ok", "ok")

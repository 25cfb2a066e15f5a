"""Outputs of any size: stored, shown, read by templates and expressions, over a store that may be away."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from agentflow import runs
from agentflow.cli.main import main
from agentflow.db.engine import transact
from agentflow.errors import NotFound, UsageError
from agentflow.objects.names import run_prefix
from agentflow.objects.store import ObjectStore
from executors.stub import fail, succeed
from scheduler.sweeper import Sweeper
from tests.site_kit import Site, python

LARGE = {"rows": [{"z": number, "a": "ü" * 20} for number in range(3000)], "count": 3000, "big": 2**70}  # 200 KB
READS = "{{ nodes.a.output }}"


def whole(site, run, node):
    """An output as a program reads it."""
    found = site.do(runs.find_output, run, node)
    store = ObjectStore(site.settings.object_store)
    text = b"".join(runs.stream_output(lambda work: transact(site.engine, work), store, found))
    assert len(text) == found.bytes
    return json.loads(text)


def given_to(kit, node):
    """How many attempts of a node the executor was given."""
    return sum(each.node == node for each in kit.stub.submitted)


def given(kit, node):
    """What the executor was given for a node: the outputs that it reads from files."""
    (workload,) = [each for each in kit.stub.submitted if each.node == node]
    return {name: json.loads(Path(path).read_bytes()) for name, path in workload.inputs.items()}


class TestInputs:
    """With the engine run by hand."""

    def test_a_small_input_travels_in_the_workload_and_a_large_one_in_a_file(self, kit):
        kit.apply(
            {
                "a": {},
                "s": {},
                "b": {"needs": ["a", "s"], "config": {"output": [READS, "{{ nodes.s.output }}"]}},
            }
        )
        kit.stub.script("a", succeed(LARGE))
        kit.stub.script("s", succeed({"small": 1}))
        kit.run()
        (workload,) = [each for each in kit.stub.submitted if each.node == "b"]
        assert workload.context["nodes"]["s"]["output"] == {"small": 1}
        assert workload.context["nodes"]["a"] == {"output": None, "state": "success"}
        assert given(kit, "b") == {"a": LARGE}

    def test_a_file_is_made_once_for_all_that_read_the_same(self, kit):
        kit.apply({"a": {}, "m": {"needs": ["a"], "for_each": [1, 2, 3], "config": {"output": READS}}})
        kit.stub.script("a", succeed(LARGE))
        kit.run()
        paths = {each.inputs["a"] for each in kit.stub.submitted if each.node == "m"}
        assert len(paths) == 1

    def test_after_a_clear_the_new_output_is_read(self, kit):
        kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
        kit.stub.script("a", succeed([1, LARGE]), succeed([2, LARGE]))
        run = kit.run()
        kit.clear(run)
        kit.settle()
        read = [json.loads(Path(each.inputs["a"]).read_bytes())[0] for each in kit.stub.submitted if each.node == "b"]
        assert read == [1, 2]

    def test_conditions_and_lists_of_items_read_large_outputs(self, kit):
        kit.apply(
            {
                "a": {},
                "yes": {"needs": ["a"], "when": "{{ nodes.a.output.count == 3000 }}"},
                "no": {"needs": ["a"], "when": "{{ nodes.a.output.count > 3000 }}"},
                "m": {"needs": ["a"], "for_each": "{{ nodes.a.output.rows[:2] }}"},
            }
        )
        kit.stub.script("a", succeed(LARGE))
        run = kit.run()
        assert kit.states(run) == {
            "a": "success",
            "yes": "success",
            "no": "skipped",
            "m": "success",
            "m[0]": "success",
            "m[1]": "success",
        }

    def test_the_list_of_a_mapped_node_keeps_its_order_and_its_holes(self, kit):
        kit.apply(
            {
                "m": {"for_each": list(range(8)), "when": "{{ index != 3 }}"},
                "b": {"needs": ["m"], "config": {"output": "{{ nodes.m.output }}"}},
            }
        )
        for number in range(8):
            kit.stub.script("m", *(succeed(["x" * 20_000, number]) for number in range(8)))
        kit.run()
        (read,) = given(kit, "b").values()
        assert [one if one is None else len(one[0]) for one in read] == [20_000] * 3 + [None] + [20_000] * 4
        assert sorted(one[1] for one in read if one) == list(range(7))

    def test_inputs_over_the_cap_fail_with_advice(self, kit, monkeypatch):
        monkeypatch.setattr("scheduler.contexts.INPUT_MAX", 100_000)
        kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
        kit.stub.script("a", succeed(LARGE))
        run = kit.run()
        assert kit.nodes(run)["b"]["error"]["type"] == "InputTooLarge"
        assert "pass references" in kit.nodes(run)["b"]["error"]["message"]

    def test_an_input_that_is_gone_costs_losses_and_then_the_node(self, kit):
        kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
        kit.stub.script("a", succeed(LARGE))
        kit.stub.hold("b")
        kit.files._folder = Path("/nowhere")
        kit.files._patience = 0.0
        run = kit.run()
        error = kit.nodes(run)["b"]["error"]
        assert (kit.state(run), error["type"]) == ("failed", "InputNotLoaded")
        assert [state for _, state in kit.attempts(run, "b")] == ["lost"] * 6

    def test_what_waits_for_its_inputs_is_given_back_by_a_scheduler_that_stops(self, kit):
        run, arrive = self.waits_for_inputs(kit)
        kit.loop.drain()
        kit.tick()
        kit.tick()
        assert kit.loop.wait_drained(0)
        assert kit.attempts(run, "b") == [(1, "refused")]
        assert kit.nodes(run)["b"]["state"] == "ready"
        assert kit.row("SELECT losses FROM node_run WHERE attempt = 1 AND state = 'ready'").losses == 0
        arrive()  # too late: it is nobody's any more
        kit.tick()
        assert given_to(kit, "b") == 0

    def test_what_waits_for_its_inputs_is_forgotten_by_a_scheduler_that_was_declared_dead(self, kit):
        run, arrive = self.waits_for_inputs(kit)
        kit.loop._on_dead = lambda: None
        kit.identity.declared_dead(kit.identity.id)
        kit.tick()
        assert kit.loop.open_attempts == 0  # or it would wait for their ends when it stops
        arrive()
        kit.tick()
        assert given_to(kit, "b") == 0
        assert kit.attempts(run, "b") == [(1, "queued")]  # recovery writes it off

    def test_what_waits_for_its_inputs_takes_a_slot_of_its_own_executor_only(self, kit):
        self.waits_for_inputs(kit)
        assert kit.loop._claimer._preparing.out == {("stub", False): 1}

    def test_the_files_of_a_workload_that_no_executor_took_are_not_kept(self, kit, monkeypatch):
        kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
        kit.stub.script("a", succeed(LARGE))
        submit = kit.stub.submit

        def refuse(workloads):
            if any(each.node == "b" for each in workloads):
                raise RuntimeError("full")
            submit(workloads)

        monkeypatch.setattr(kit.stub, "submit", refuse)
        run = kit.run()
        assert [state for _, state in kit.attempts(run, "b")] == ["refused"] * 6
        assert kit.files._readers == {}

    def waits_for_inputs(self, kit):
        """A run whose node `b` is claimed while its input is on its way, and what lets that arrive."""
        asked = []
        request = kit.files.request
        kit.files.request = lambda *arguments: asked.append(arguments)
        kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
        kit.stub.script("a", succeed(LARGE))
        run = kit.run()
        assert kit.attempts(run, "b") == [(1, "queued")]
        (arguments,) = asked
        return run, lambda: request(*arguments)

    def test_files_nobody_reads_make_room_for_others(self, kit):
        kit.files._cache = 1
        nodes = {f"a{number}": {} for number in range(3)}
        for name in list(nodes):
            kit.stub.script(name, succeed([name, LARGE]))
            nodes[f"b{name}"] = {"needs": [name], "config": {"output": f"{{{{ nodes.{name}.output }}}}"}}
        kit.apply(nodes)
        kit.run()
        for attempt in list(kit.files._readers):
            kit.files.release(attempt)
        kit.files._make_room()
        assert list(kit.files._folder.iterdir()) == []


@pytest.fixture(params=["file", "s3"])
def site(request, database_url, tmp_path):
    url = request.getfixturevalue("s3_url") if request.param == "s3" else (tmp_path / "objects").as_uri()
    site = Site(database_url, tmp_path, object_store_url=url)
    yield site
    site.close()


BIG = python("def main():\n    return {'text': 'ü' * 5_000_000, 'list': list(range(500_000)), 'big': 2**70}\n")
READ = "def main(page):\n    return [len(page['text']), len(page['list']), page['big']]\n"


def test_a_huge_output_is_an_object_and_its_readers_get_all_of_it(site):
    run = site.trigger(
        {
            "name": "huge",
            "nodes": {
                "big": BIG,
                "small": python("def main():\n    return 1\n"),
                "read": python(READ, ["big"], config={"args": {"page": "{{ nodes.big.output }}"}}),
                "once": python(
                    "def main():\n    return 2\n", ["big"], when="{{ nodes.big.output.list[-1] == 499999 }}"
                ),
                "many": python(
                    "def main(n):\n    return [n, 'x' * 100_000]\n",
                    ["big"],
                    for_each="{{ nodes.big.output.list[:3] }}",
                    config={"args": {"n": "{{ item }}"}},
                ),
                "sum": python(
                    "def main(rows):\n    return [row[0] for row in rows]\n",
                    ["many"],
                    config={"args": {"rows": "{{ nodes.many.output }}"}},
                ),
            },
        }
    )
    shown = site.end(run)
    assert shown["state"] == "success", shown
    outputs = {(node["node"], node["map_index"]): node["output"] for node in shown["nodes"]}
    assert outputs["read", None] == [5_000_000, 500_000, 2**70]
    assert (outputs["once", None], outputs["sum", None], outputs["small", None]) == (2, [0, 1, 2], 1)
    big = outputs["big", None]
    assert (big["$ref"], big["bytes"] > 13_000_000, len(big["preview"])) == (f"{run}/big", True, 1000)
    assert outputs["many", 2]["$ref"] == f"{run}/many[2]"
    assert outputs["many", None]["preview"].startswith('[[0,"xxx')
    assert whole(site, run, "big")["list"] == list(range(500_000))
    assert [row[0] for row in whole(site, run, "many")] == [0, 1, 2]
    assert whole(site, run, "many[1]") == [1, "x" * 100_000]
    assert whole(site, run, "small") == 1
    store = ObjectStore(site.settings.object_store)
    names = sorted(name for batch in store.names(run_prefix(uuid.UUID(run))) for name in batch)
    assert [name.rsplit("/", 1)[1] for name in names] == ["0.-1.1.json", "4.0.1.json", "4.1.1.json", "4.2.1.json"]


def test_what_cannot_be_read_is_told(site):
    run = site.trigger({"name": "none", "nodes": {"a": python("def main():\n    raise ValueError\n")}})
    site.end(run)
    with pytest.raises(NotFound, match="a has no output: it is failed"):
        site.do(runs.find_output, run, "a")
    with pytest.raises(NotFound, match="no node 'b'"):
        site.do(runs.find_output, run, "b")
    with pytest.raises(UsageError, match="is not an address"):
        site.do(runs.find_output, run, "a[")


@pytest.fixture
def s3_site(database_url, tmp_path, s3_url):
    site = Site(database_url, tmp_path, object_store_url=s3_url)
    yield site
    site.close()


GATED = (
    "import pathlib, time\n"
    "def main(path):\n"
    "    while not pathlib.Path(path).exists():\n"
    "        time.sleep(0.01)\n"
    "    return 'x' * 200_000\n"
)


def test_a_store_that_is_away_holds_up_large_outputs_only_and_loses_nothing(s3_site, s3_server):
    site, mark = s3_site, s3_site.settings.home / "go"
    run = site.trigger(
        {
            "name": "away",
            "nodes": {
                "big": python(GATED, config={"args": {"path": str(mark)}}),
                "read": python(
                    "def main(text):\n    return len(text)\n",
                    ["big"],
                    config={"args": {"text": "{{ nodes.big.output }}"}},
                ),
            },
        }
    )
    site.wait(run, lambda shown: shown["nodes"][0]["state"] == "running")
    s3_server.stop()
    mark.touch()
    other = site.trigger({"name": "other", "nodes": {"a": python("def main():\n    return 1\n")}})
    assert site.end(other)["state"] == "success"
    assert site.show(run)["nodes"][0]["state"] == "running"
    s3_server.start()
    shown = site.end(run)
    assert shown["state"] == "success"
    assert [node["output"] for node in shown["nodes"]][1] == 200_000
    assert [node["attempt"] for node in shown["nodes"]] == [1, 1]


def test_a_store_that_stays_away_fails_the_node_clearly_after_its_losses(s3_site, s3_server):
    site = s3_site
    site.daemon._outputs._patience = 0.0
    s3_server.stop()
    run = site.trigger({"name": "gone", "nodes": {"big": python("def main():\n    return 'x' * 100_000\n")}})
    shown = site.end(run)
    (node,) = shown["nodes"]
    assert (shown["state"], node["state"], node["attempt"]) == ("failed", "failed", 6)
    assert node["error"]["type"] == "OutputNotStored"
    assert "object store s3://bucket/" in node["error"]["message"]
    assert "not reachable" in node["error"]["message"]


def test_a_cancelled_run_does_not_wait_for_its_inputs(s3_site, s3_server):
    site = s3_site
    mark = site.settings.home / "go"
    run = site.trigger(
        {
            "name": "stop",
            "nodes": {
                "big": python("def main():\n    return 'x' * 100_000\n"),
                "gate": python(GATED.replace("'x' * 200_000", "1"), ["big"], config={"args": {"path": str(mark)}}),
                "read": python(
                    "def main(text):\n    return 1\n", ["gate"], config={"args": {"text": "{{ nodes.big.output }}"}}
                ),
            },
        }
    )
    site.wait(run, lambda shown: shown["nodes"][1]["state"] == "running")
    s3_server.stop()
    mark.touch()
    site.wait(run, lambda shown: shown["nodes"][2]["state"] == "queued")
    site.do(runs.cancel_run, run, actor="test")
    shown = site.end(run)
    assert (shown["state"], shown["nodes"][2]["state"]) == ("cancelled", "cancelled")


def test_a_crash_between_object_and_commit_costs_one_loss_and_leaves_one_orphan(kit, store):
    """The second attempt writes its own object; the first one's stays until its run is deleted."""
    from scheduler.outputs import OutputWriter

    kit.apply({"a": {}})
    kit.stub.script("a", succeed(LARGE), succeed(LARGE))
    writer = OutputWriter(store, lambda event: None)  # the scheduler dies before the loop hears of it
    kit.stub._emit = writer.emit
    run = kit.create()
    kit.starter.work()
    kit.tick()
    stored = writer._stored(writer._queue.popleft())
    assert store.get(stored.stored.ref)
    kit.stub._emit = kit._emit
    kit.loop._live.clear()
    kit.loop._audit_at = 0.0
    kit.tick()
    kit.stub.script("a", succeed(LARGE))
    kit.settle()
    assert kit.attempts(run, "a") == [(1, "lost"), (2, "success")]
    kit.inbox.emit(stored)  # the first one's end comes after all
    kit.settle()
    assert len(kit.events(run, "refused")) == 1
    assert kit.row("SELECT ref FROM output").ref is None


def test_attempts_that_others_took_over_do_not_begin_once_their_inputs_are_there(kit):
    waiting = []
    kit.files.request = lambda reader, wanted, then: waiting.append(then)
    kit.apply({"a": {}, "b": {"needs": ["a"], "config": {"output": READS}}})
    kit.stub.script("a", succeed(LARGE))
    run = kit.run()
    assert (kit.states(run)["b"], len(waiting), kit.started("b")) == ("queued", 1, [])
    kit.loop._claimer.forget_prepared()
    waiting[0]({"a": "/a/file"})
    kit.tick()
    assert kit.started("b") == []
    del kit.files.request
    kit.loop._live.clear()
    kit.loop._audit_at = 0.0
    kit.settle()
    assert kit.attempts(run, "b") == [(1, "lost"), (2, "success")]


def test_outputs_of_a_sub_run_have_the_same_cap(kit):
    kit.gates._rounds._output_max = 1024
    kit.apply({"x": {}}, "child", outputs={"all": "{{ nodes.x.output }}"})
    kit.apply({"sub": {"type": "workflow", "config": {"name": "child"}}}, "parent")
    kit.stub.script("x", succeed("x" * 2000))
    run = kit.run("parent")
    error = kit.nodes(run)["sub"]["error"]
    assert (kit.state(run), error["type"]) == ("failed", "OutputInvalid")
    assert "outputs: output is larger than 1024 bytes (AGENTFLOW_OUTPUT_MAX)" in error["message"]


def test_a_large_output_of_a_sub_run_is_an_object_too(site):
    child = {"name": "child", "nodes": {"x": BIG}, "outputs": {"all": "{{ nodes.x.output }}"}}
    site.end(site.trigger(child))
    read = python(READ, ["sub"], config={"args": {"page": "{{ nodes.sub.output.all }}"}})
    run = site.trigger(
        {"name": "parent", "nodes": {"sub": {"type": "workflow", "config": {"name": "child"}}, "read": read}}
    )
    shown = site.end(run)
    assert shown["state"] == "success", shown
    assert shown["nodes"][1]["output"] == [5_000_000, 500_000, 2**70]
    with site.engine.begin() as connection:
        refs = connection.exec_driver_sql("SELECT ref FROM output WHERE value IS NULL").scalars().all()
    assert f"{run_prefix(uuid.UUID(run))}/0.-1.1.json" in refs
    assert whole(site, run, "sub")["all"]["big"] == 2**70


def calls_child_with_a_large_output(site, **keys):
    """A run whose node runs a workflow of small outputs, which are large together."""
    child = {"name": "child", "nodes": {"x": python("def main():\n    return 'x' * 40_000\n")}}
    site.end(site.trigger(child | {"outputs": {"all": ["{{ nodes.x.output }}"] * 2}}))
    return {"name": "parent", "nodes": {"sub": {"type": "workflow", "config": {"name": "child"}, **keys}}}


def test_an_output_of_a_sub_run_that_cannot_be_stored_is_a_loss_and_no_retry(s3_site, s3_server):
    site = s3_site
    parent = calls_child_with_a_large_output(site, retries=2, retry_delay="1h")
    site.daemon.gates.outputs._writer._patience = 0.0
    s3_server.stop()
    shown = site.end(site.trigger(parent))
    (node,) = shown["nodes"]
    assert (shown["state"], node["state"], node["attempt"]) == ("failed", "failed", 6)
    assert node["error"]["type"] == "OutputNotStored"
    with site.engine.begin() as connection:
        counted = connection.exec_driver_sql(
            "SELECT failures, losses FROM node_run WHERE attempt = 6 AND state = 'failed'"
        ).one()
    assert tuple(counted) == (0, 6)


def test_an_output_of_a_sub_run_waits_for_the_store_and_the_sub_run_ran_once(s3_site, s3_server):
    site = s3_site
    parent = calls_child_with_a_large_output(site)
    s3_server.stop()
    run = site.trigger(parent)
    waiting = site.daemon.gates.outputs
    site.wait(run, lambda shown: bool(waiting._asked))
    s3_server.start()
    shown = site.end(run)
    assert (shown["state"], shown["nodes"][0]["attempt"]) == ("success", 1)
    assert [len(text) for text in whole(site, run, "sub")["all"]] == [40_000, 40_000]


def test_after_a_restart_readers_get_what_was_stored_before(site):
    nodes = {"big": BIG, "read": python(READ, ["big"], config={"args": {"page": "{{ nodes.big.output }}"}})}
    run = site.trigger({"name": "again", "nodes": nodes})
    assert site.end(run)["state"] == "success"
    site.daemon.stop()
    site.start()
    site.do(runs.clear_run, run, nodes=["read"], actor="test")
    shown = site.end(run)
    assert shown["state"] == "success"
    assert [(node["attempt"], node["output"]) for node in shown["nodes"]][1] == (2, [5_000_000, 500_000, 2**70])


def test_expressions_wait_for_the_store_without_asking_again_and_again(s3_site, s3_server):
    site, mark = s3_site, s3_site.settings.home / "go"
    gate = python(GATED.replace("'x' * 200_000", "1"), config={"args": {"path": str(mark)}})
    run = site.trigger(
        {
            "name": "waits",
            "nodes": {
                "big": python("def main():\n    return {'n': 7, 'x': 'x' * 100_000}\n"),
                "gate": gate,
                "after": {"type": "noop", "needs": ["big", "gate"], "when": "{{ nodes.big.output.n == 7 }}"},
            },
        }
    )
    site.wait(run, lambda shown: [node["state"] for node in shown["nodes"][:2]] == ["success", "running"])
    s3_server.stop()
    asked = []
    leave = site.daemon.gates._judge.ask
    site.daemon.gates._judge.ask = lambda questions: asked.append(1) or leave(questions)
    mark.touch()
    site.wait(run, lambda shown: shown["nodes"][1]["state"] == "success")
    other = site.trigger({"name": "other", "nodes": {"a": {"type": "noop", "when": "{{ 1 == 1 }}"}}})
    assert site.end(other)["state"] == "success"
    assert site.show(run)["nodes"][2]["state"] == "pending"
    s3_server.start()
    shown = site.end(run)
    assert (shown["state"], shown["nodes"][2]["state"]) == ("success", "success")
    assert len(asked) < 20


def test_a_failed_attempt_stores_nothing(kit):
    kit.apply({"a": {}})
    kit.stub.script("a", fail())
    run = kit.run()
    assert kit.rows("SELECT 1 FROM output WHERE run_id = :run", run=uuid.UUID(run)) == []


def test_the_objects_of_a_deleted_run_go_once_the_store_is_there(kit, store, s3_server):
    def names():
        return sorted(name for batch in store.names("runs") for name in batch)

    kit.apply({"a": {}})
    run, other = kit.run(), kit.run()
    for each in (run, other):
        store.put(f"{run_prefix(uuid.UUID(each))}/0.-1.1.json", b"1")
        store.put(f"{run_prefix(uuid.UUID(each))}/0.-1.2.json", b"an orphan")
    kit.call(runs.delete_run, run, actor="test")
    sweeper = Sweeper(kit.engine, store)
    if store.address.startswith("s3://"):
        s3_server.stop()
        assert sweeper.sweep() == 0
        s3_server.start()
    assert len(names()) == 4
    assert (sweeper.sweep(), sweeper.sweep()) == (2, 0)
    assert all(other in name for name in names())
    assert len(names()) == 2


def test_a_whole_output_is_printed(database_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path))
    site = Site(database_url, tmp_path)
    try:
        code = "def main(n):\n    return {'b': n, 'a': 'ü' * 100_000}\n"
        many = python(code, for_each=[1, 2], config={"args": {"n": "{{ item }}"}})
        run = site.trigger({"name": "printed", "nodes": {"many": many, "none": {"type": "noop"}}})
        site.end(run)
    finally:
        site.close()
    expected = [{"b": 1, "a": "ü" * 100_000}, {"b": 2, "a": "ü" * 100_000}]

    def said(*arguments):
        code = main(["output", run, *arguments])
        return code, capsys.readouterr().out

    assert said("many") == (0, json.dumps(expected, separators=(",", ":"), ensure_ascii=False) + "\n")
    assert json.loads(said("many[1]")[1]) == json.loads(said("many", "--map-index", "1", "--json")[1]) == expected[1]
    assert said("none") == (0, "null\n")
    code, out = said("many", "--map-index", "7", "--json")
    assert (code, json.loads(out)["error"]["type"]) == (1, "not-found")
    assert said("many[0]", "--map-index", "0")[0] == 2

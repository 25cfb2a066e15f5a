"""Node runs over HTTP: lists, attempts, logs, outputs, config, marks."""

from __future__ import annotations

import json
import zlib

import pytest
from sqlalchemy import text

from agentflow import runs
from agentflow.access import Role
from agentflow.catalog import apply_spec
from agentflow.spec import parse_document
from executors.stub import fail, succeed
from tests.engine_kit import Kit, document


@pytest.fixture
def mapped(web, kit):
    """A run of a list, a node mapped over it, and one that failed and waits for its second attempt."""
    kit.apply(
        {
            "list": {},
            "each": {"needs": ["list"], "for_each": "{{ nodes.list.output }}"},
            "sad": {"retries": 1, "retry_delay": "1h"},
        }
    )
    kit.stub.script("list", succeed([1, 2, 3]))
    kit.stub.script("each", succeed({"n": 1}), succeed({"n": 2}), succeed({"n": 3}))
    kit.stub.script("sad", fail(), succeed())
    return kit.run()


def names(page):
    return [item["node"] if item["map_index"] is None else (item["node"], item["map_index"]) for item in page["items"]]


def test_list_in_the_order_of_the_workflow(web, mapped):
    page = web.get(f"/runs/{mapped}/nodes?limit=3")
    assert names(page) == ["list", "each", ("each", 0)]
    rest = web.get(f"/runs/{mapped}/nodes?cursor={page['next_cursor']}")
    assert names(rest) == [("each", 1), ("each", 2), "sad"]
    assert rest["next_cursor"] is None
    assert page["items"][1]["output"] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_list_filtered(web, mapped):
    assert names(web.get(f"/runs/{mapped}/nodes?state=retrying&state=failed")) == ["sad"]
    assert names(web.get(f"/runs/{mapped}/nodes?node=each&limit=2")) == ["each", ("each", 0)]
    web.get(f"/runs/{mapped}/nodes?state=odd", expect=422)
    web.get(f"/runs/{mapped}/nodes?cursor=WyJub2RlLXJ1bnMiLCJ4Il0", expect=422)


def test_a_run_that_has_not_started_tells_its_nodes(web, kit):
    kit.apply({"a": {}, "b": {"needs": ["a"]}})
    run = kit.create()
    assert [(item["node"], item["state"], item["attempt"]) for item in web.get(f"/runs/{run}/nodes")["items"]] == [
        ("a", "pending", 0),
        ("b", "pending", 0),
    ]


def test_one_by_its_address(web, mapped):
    one = web.get(f"/runs/{mapped}/nodes/each%5B1%5D")
    assert (one["node"], one["map_index"], one["output"]) == ("each", 1, {"n": 2})
    sad = web.get(f"/runs/{mapped}/nodes/sad")
    assert (sad["state"], sad["attempt"], sad["resume_at"] is not None) == ("retrying", 1, True)
    for address, status in (("none", 404), ("each%5B9%5D", 404), ("a%20b", 422), ("x" * 5000, 404)):
        web.get(f"/runs/{mapped}/nodes/{address}", expect=status)


def test_a_sub_run_is_reached_by_address(web, kit):
    kit.apply({"inner": {}}, name="sub")
    kit.apply({"loop": {"type": "workflow", "config": {"name": "sub"}}})
    run = kit.run()
    assert web.get(f"/runs/{run}/nodes/loop.sub%5B0%5D.inner")["state"] == "success"
    loop = web.get(f"/runs/{run}/nodes/loop")
    assert [sub["address"] for sub in loop["sub_runs"]] == ["loop.sub[0]"]
    web.get(f"/runs/{run}/nodes/loop.sub%5B0%5D", expect=422)
    for address in ("loop.sub%5B0%5D", "loop.sub%5B0%5D.inner"):
        assert web.get(f"/runs/{run}?address={address}")["id"] == loop["sub_runs"][0]["id"]
    assert web.get(f"/runs/{run}?address=loop")["id"] == run
    web.get(f"/runs/{run}?address=loop.sub%5B1%5D", expect=404)
    web.get(f"/runs/{run}?address=no%20address", expect=422)


def test_attempts(web, mapped, kit):
    page = web.get(f"/runs/{mapped}/nodes/sad/attempts")
    (only,) = page["items"]
    assert (only["attempt"], only["state"], only["executor"], only["log_lines"]) == (1, "failed", "stub", 0)
    assert only["error"]["type"]
    kit.retry_now()
    first = web.get(f"/runs/{mapped}/nodes/sad/attempts?limit=1")
    second = web.get(f"/runs/{mapped}/nodes/sad/attempts?cursor={first['next_cursor']}")
    assert [(item["attempt"], item["state"]) for item in second["items"]] == [(2, "success")]


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(web, mapped):
    """Store chunks of the log of an attempt of `sad`: pairs of a first line number and texts."""

    def log(*chunks, truncated=0, attempt=1):
        with web.engine.begin() as connection:
            for number, (first, texts) in enumerate(chunks):
                lines = [[first + place, 1.0, "stdout", "info", one] for place, one in enumerate(texts)]
                connection.execute(
                    text("""
                    INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines,
                      truncated_bytes, data)
                    SELECT r.id, vn.node_no, -1, :attempt, :number, :first, :lines, :truncated, :data
                    FROM run r JOIN version_node vn ON vn.version_id = r.version_id AND vn.node_id = 'sad'
                    WHERE r.id = :run"""),
                    {
                        "run": mapped,
                        "attempt": attempt,
                        "number": number,
                        "first": first,
                        "lines": len(texts),
                        "truncated": truncated,
                        "data": zlib.compress("\n".join(map(json.dumps, lines)).encode()),
                    },
                )

    return log


def read(web, run, query=""):
    answer = web.get(f"/runs/{run}/nodes/sad/attempts/1/logs?{query}")
    return [(line["seq"], line["text"]) for line in answer["items"]], answer["next"], answer["gaps"]


def test_a_range_of_lines(web, mapped, log):
    log((1, ["a", "b", "c"]), (4, ["d"]), truncated=5)
    assert read(web, mapped) == ([(1, "a"), (2, "b"), (3, "c"), (4, "d")], None, [])
    assert read(web, mapped, "limit=2") == ([(1, "a"), (2, "b")], 2, [])
    assert read(web, mapped, "limit=2&after=2") == ([(3, "c"), (4, "d")], None, [])
    assert read(web, mapped, "limit=1&after=2") == ([(3, "c")], 3, [])
    assert read(web, mapped, "after=4") == ([], None, [])
    answer = web.get(f"/runs/{mapped}/nodes/sad/attempts/1/logs?limit=1")
    assert (answer["truncated_bytes"], answer["items"][0]["at"]) == (10, "1970-01-01T00:00:01.000000Z")


def test_gaps_are_told(web, mapped, log):
    log((3, ["c"]), (7, ["g"]))
    assert read(web, mapped) == ([(3, "c"), (7, "g")], None, [[1, 2], [4, 6]])
    assert read(web, mapped, "after=4") == ([(7, "g")], None, [[5, 6]])
    assert read(web, mapped, "limit=1") == ([(3, "c")], 3, [[1, 2]])


def test_an_attempt_that_goes_on_always_has_a_next(web, mapped, log, kit):
    kit.sql("UPDATE attempt SET state = 'running', finished_at = NULL WHERE state = 'failed'")
    assert read(web, mapped) == ([], 0, [])
    log((1, ["a"]))
    assert read(web, mapped) == ([(1, "a")], 1, [])


def test_logs_of_what_does_not_exist(web, mapped):
    web.get(f"/runs/{mapped}/nodes/sad/attempts/2/logs", expect=404)
    web.get(f"/runs/{mapped}/nodes/sad/attempts/99999/logs", expect=404)
    web.get(f"/runs/{mapped}/nodes/sad/attempts/0/logs", expect=404)
    web.get(f"/runs/{mapped}/nodes/sad/attempts/1/logs?limit=5001", expect=422)


def page_by_page(web, run, query, limit):
    """Every line of a run's log, read in pages."""
    told, cursor = [], ""
    while cursor is not None:
        page = web.get(f"/runs/{run}/logs?limit={limit}&{query}{cursor and '&cursor=' + cursor}")
        told += [(line["node"], line["attempt"], line["seq"], line["text"]) for line in page["items"]]
        assert len(page["items"]) <= limit
        cursor = page["next_cursor"]
    return told


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("query", ["", "node=sad&", "attempt=2&", "after=3&", "until=4&", "after=3&until=7&"])
def test_the_log_of_a_run_is_the_same_in_pages_of_any_size(web, mapped, log, limit, query):
    log((1, ["a", "b", "c"]), (7, ["g", "h"]), (9, ["i"]))
    log((2, ["B", "C"]), attempt=2)
    told = page_by_page(web, mapped, query, limit)
    keys = dict(part.split("=") for part in query.split("&") if part)
    with web.engine.connect() as connection:
        expected = runs.read_logs(
            connection,
            mapped,
            keys.get("node"),
            int(keys["attempt"]) if "attempt" in keys else None,
            after=int(keys.get("after", 0)),
            until=int(keys["until"]) if "until" in keys else None,
        )
        assert told == [(line["node"], line["attempt"], line["seq"], line["text"]) for line in expected]
    assert told


def test_the_log_of_a_run_tells_gaps_once(web, mapped, log):
    log((1, ["a"]), (5, ["e"]))
    assert [text for *_, text in page_by_page(web, mapped, "", 1)] == ["a", "gap: lines 2 to 4 are missing", "e"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("node=none", 404),
        ("node=a%20b", 422),
        ("cursor=x", 422),
        ("cursor=WyJydW4tbG9ncyIsIlsxXSJd", 422),
        ("limit=5001", 422),
    ],
)
def test_the_log_of_a_run_that_cannot_be_told(web, mapped, query, status):
    web.get(f"/runs/{mapped}/logs?{query}", expect=status)


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_whole_outputs(web, kit):
    kit.apply({"big": {}, "none": {}})
    value = {"text": "ä" * 100_000}
    kit.stub.script("big", succeed(value))
    kit.stub.script("none", fail())
    run = kit.run()
    assert web.get(f"/runs/{run}/nodes/big")["output"]["bytes"] > 100_000
    assert web.get(f"/runs/{run}/nodes/big/output") == value
    web.get(f"/runs/{run}/nodes/none/output", expect=404)


def test_the_output_of_a_mapped_node_is_a_list(web, mapped):
    assert web.get(f"/runs/{mapped}/nodes/each/output") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert web.get(f"/runs/{mapped}/nodes/each%5B2%5D/output") == {"n": 3}


# -- config ------------------------------------------------------------------------------------------------------------


def test_config_with_its_templates_filled_in_but_for_secrets(web, kit):
    web.put("/variables/place", {"value": "Rome"}, expect=201)
    web.put("/secrets/token", {"value": "hunter22"}, expect=201)
    kit.apply(
        {
            "list": {},
            "shout": {
                "type": "shell",
                "needs": ["list"],
                "config": {
                    "command": "echo {{ nodes.list.output[0] }} {{ vars.place }} {{ params.n }}",
                    "env": {"TOKEN": "{{ secrets.token }}"},
                },
            },
        },
        params={"n": {"type": "integer", "default": 7}},
    )
    kit.stub.script("list", succeed(["first"]))
    run = kit.run()
    answer = web.get(f"/runs/{run}/nodes/shout/config")
    assert answer["rendered"] == {"command": "echo first Rome 7", "env": {"TOKEN": "***"}}
    assert answer["config"]["env"] == {"TOKEN": "{{ secrets.token }}"}
    assert answer["problem"] is None


def test_config_that_cannot_be_rendered_says_why(web, kit):
    kit.apply(
        {
            "a": {"type": "template", "config": {"template": "{{ vars.missing }}"}},
            "bomb": {"type": "template", "config": {"template": "{{ 'a' * 10**9 }}"}},
            "each": {"type": "template", "for_each": "{{ [1, 2] }}", "config": {"template": "{{ item }}"}},
            "code": {"type": "python", "config": {"code": "def main():\n    return '{{ not a template }}'\n"}},
        }
    )
    run = kit.run()

    def config(node):
        answer = web.get(f"/runs/{run}/nodes/{node}/config")
        return answer["rendered"], answer["problem"]

    assert "missing" in config("a")[1]
    assert config("bomb")[0] is None
    assert "each[0]" in config("each")[1]
    assert config("each%5B1%5D") == ({"template": 2}, None)
    assert config("code")[1] is None


# -- marking, why ------------------------------------------------------------------------------------------------------


def test_mark(web, mapped):
    assert web.post(f"/runs/{mapped}/nodes/sad/mark", {"state": "success"}) == {"id": mapped, "changed": True}
    assert web.get(f"/runs/{mapped}")["state"] == "success"
    assert web.post(f"/runs/{mapped}/nodes/sad/mark", {"state": "success"})["changed"] is False
    web.post(f"/runs/{mapped}/nodes/sad/mark", {"state": "running"}, expect=422)
    web.post(f"/runs/{mapped}/nodes/none/mark", {"state": "failed"}, expect=404)
    web.act_as(Role.VIEWER)
    web.post(f"/runs/{mapped}/nodes/sad/mark", {"state": "failed"}, expect=403)


def test_why(web, mapped):
    answer = web.get(f"/runs/{mapped}/nodes/sad/why")
    assert answer["state"] == "retrying"
    assert answer["reasons"][0]["advice"]
    web.get(f"/runs/{mapped}/nodes/none/why", expect=404)


def test_slots_that_another_workspace_holds_are_counted_without_saying_whose_they_are(web, tmp_path):
    kit = Kit(web.engine, tmp_path, parallelism=1)
    try:
        web.act_as(Role.ADMIN, workspace="elsewhere")
        web.act_as(Role.ADMIN)
        spec = parse_document(document({"hog": {}}, "theirs"))
        kit.call(apply_spec, spec, source="api", actor="test", workspace="elsewhere")
        kit.apply({"a": {}})
        kit.stub.hold("hog")
        kit.create("theirs", workspace="elsewhere")
        kit.settle()
        run = kit.run()
        answer = web.get(f"/runs/{run}/nodes/a/why")
        (reason,) = (one for one in answer["reasons"] if one["code"] == "no-executor-slot")
        assert (reason["detail"]["used"], reason["detail"]["slots"]) == (1, 1)
        assert "theirs" not in json.dumps(answer)
        assert [one["attempts"] for one in web.get("/schedulers")["items"]] == [1]
        kit.stub.release("hog")
        kit.settle()
        assert kit.state(run) == "success"
    finally:
        kit.close()

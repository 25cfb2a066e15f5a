"""Runs over HTTP: start, find, show, cancel, clear, rerun, note, delete, many at once."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.access import Role
from executors.stub import fail

FOUR = {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}, "x": {}}


@pytest.fixture
def kit(kit):
    kit.apply(FOUR, params={"city": {"type": "string", "default": "Berlin"}})
    return kit


def start(web, body=None, **keys):
    return web.post("/workflows/flow/runs", body or {}, expect=keys.pop("expect", 201), **keys)


def ids(page):
    return [item["id"] for item in page["items"]]


# -- starting ----------------------------------------------------------------------------------------------------------


def test_start(web, kit):
    body = {"params": {"city": "Rome"}, "note": "try", "logical_date": "2026-11-01T00:00:00+01:00"}
    answer = web.call("POST", "/workflows/flow/runs", body, expect=201)
    run = answer.json
    assert answer.headers["Location"] == f"/api/v1/runs/{run['id']}"
    assert (run["state"], run["triggered_by"], run["params"]) == ("queued", "api", {"city": "Rome"})
    assert (run["logical_date"], run["note"], run["paused"]) == ("2026-10-31T23:00:00.000000Z", "try", False)
    assert web.get(f"/runs/{run['id']}") == {key: value for key, value in run.items() if key != "paused"}
    assert web.get("/events?action=run.created")["items"][0]["actor"] == "user:ada@example.org"


def test_a_paused_workflow_takes_runs_and_says_so(web, kit):
    web.patch("/workflows/flow", {"paused": True})
    assert start(web)["paused"]
    kit.settle()
    assert web.get("/runs")["items"][0]["state"] == "queued"


INVALID = [
    ({"params": {"city": 5}}, "city"),
    ({"params": {"town": "x"}}, "town"),
    ({"params": []}, "body.params"),
    ({"logical_date": "yesterday"}, "body.logical_date"),
    ({"version": 1}, "body.version"),
    ({"note": "x" * 10_001}, "body.note"),
]


def test_bodies_that_are_not_valid(web, kit):
    for body, path in INVALID:
        assert start(web, body, expect=422)["errors"][0]["path"] == path
    assert web.get("/runs")["items"] == []


def test_a_logical_date_is_taken_once(web, kit):
    start(web, {"logical_date": "2026-11-01"})
    assert start(web, {"logical_date": "2026-11-01T00:00:00Z"}, expect=409)["type"].endswith("conflict")


def test_the_same_idempotency_key_starts_one_run(web, kit):
    headers = {"Idempotency-Key": "k-1"}
    first = start(web, {"note": "a"}, headers=headers)
    assert start(web, {"note": "a"}, headers=headers) == first
    problem = start(web, {"note": "b"}, headers=headers, expect=422)
    assert problem["type"] == "urn:agentflow:problem:idempotency-key-reused"
    assert len(web.get("/runs")["items"]) == 1
    other = start(web, {"note": "a"}, headers={"Idempotency-Key": "k-2"})
    assert other["id"] != first["id"]


def test_idempotency_keys_end_after_a_day_and_belong_to_their_user(web, kit):
    headers = {"Idempotency-Key": "k-1"}
    first = start(web, headers=headers)
    kit.sql("UPDATE idempotency_key SET created_at = created_at - interval '24 hours 1 second'")
    second = start(web, {"note": "new"}, headers=headers)
    assert second["id"] != first["id"]
    assert kit.row("SELECT count(*) AS n FROM idempotency_key").n == 1
    web.principal = web.principal.__class__("user", "2", "user:bob@example.org", 1, "default", Role.ADMIN)
    assert start(web, {"note": "bob's"}, headers=headers)["note"] == "bob's"


def test_a_request_that_failed_may_be_sent_again_with_its_key(web, kit):
    headers = {"Idempotency-Key": "k-1"}
    start(web, {"params": {"city": 5}}, headers=headers, expect=422)
    start(web, {"params": {"city": "5"}}, headers=headers)


def test_idempotency_keys_that_cannot_be(web, kit):
    for key in ("", "x" * 201, "ä"):
        start(web, headers={"Idempotency-Key": key}, expect=422)


def test_viewers_start_nothing(web, kit):
    web.act_as(Role.VIEWER)
    start(web, expect=403)


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(web, kit):
    """Five runs, the oldest first: ended in success and in failure, cancelled, queued, of another workflow."""
    kit.apply({"a": {}}, name="other", title="Something else")
    found = [start(web, {"note": "first light", "params": {"city": "Rome"}})["id"]]
    kit.settle()
    kit.stub.script("x", fail())
    found.append(start(web, {"params": {"city": "Łódź"}})["id"])
    kit.settle()
    found.append(start(web)["id"])
    web.post(f"/runs/{found[2]}/cancel")
    web.patch("/workflows/flow", {"paused": True})
    found.append(start(web)["id"])
    found.append(kit.create("other"))
    return found


FOUND = [
    ("", [4, 3, 2, 1, 0]),
    ("workflow=flow", [3, 2, 1, 0]),
    ("state=failed", [1]),
    ("state=success&state=cancelled", [2, 0]),
    ("triggered_by=manual", [4]),
    ("triggered_by=api&triggered_by=manual&workflow=other", [4]),
    ("search=light", [0]),
    ("search=FIRST lig", [0]),
    ("search=rome", [0]),
    ("search=łód", [1]),
    ("search=city", [3, 2, 1, 0]),
    ("search=something", [4]),
    ("search=oth", [4]),
    ("search=' OR true --", []),
    ("search=%25", []),
    ("search=%26 | ! <-> (", []),
]


def test_filters(web, many):
    for query, found in FOUND:
        assert ids(web.get(f"/runs?{query}")) == [many[number] for number in found], query


def test_a_run_is_found_by_the_begin_of_its_id(web, many):
    # Ids made within a second share their first digits; the last but one differs.
    assert ids(web.get(f"/runs?search={many[1]}")) == [many[1]]
    assert ids(web.get(f"/runs?search={many[1][:-2]}")) == [many[1]]
    assert set(many) <= set(ids(web.get(f"/runs?search={many[1][:8].upper()}")))


def test_filters_by_time(web, many, kit):
    moments = [web.get(f"/runs/{run}")["created_at"] for run in many]
    assert ids(web.get(f"/runs?created_from={moments[3]}")) == [many[4], many[3]]
    assert ids(web.get(f"/runs?created_to={moments[1]}")) == [many[0]]
    ahead = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
    assert ids(web.get(f"/runs?created_from={ahead}")) == []
    assert len(ids(web.get("/runs?created_from=0330-02-08T10:02:41Z"))) == len(many)
    assert ids(web.get("/runs?created_to=0001-01-01T00:00:00Z")) == []


def test_filters_by_logical_date(web, kit):
    kit.apply({"a": {}})
    runs = [
        web.post("/workflows/flow/runs", {"logical_date": f"2026-01-0{day}T06:00:00Z"}, expect=201)["id"]
        for day in (1, 2, 3)
    ]
    web.post("/workflows/flow/runs", {}, expect=201)
    assert ids(web.get("/runs?logical_from=2026-01-02T06:00:00Z")) == [runs[2], runs[1]]
    assert ids(web.get("/runs?logical_to=2026-01-02T06:00:00Z")) == [runs[0]]
    assert ids(web.get("/runs?workflow=flow&logical_from=2026-01-02&logical_to=2026-01-03")) == [runs[1]]


def test_pages(web, many):
    page = web.get("/runs?limit=2&workflow=flow")
    rest = web.get(f"/runs?limit=2&workflow=flow&cursor={page['next_cursor']}")
    assert ids(page) + ids(rest) == many[3::-1]
    assert rest["next_cursor"] is None


def test_filters_that_are_not_valid(web):
    for query in ("state=done", "triggered_by=me", "limit=0", "cursor=x", "created_from=soon", "a=b", "search=%00"):
        web.get(f"/runs?{query}", expect=422)


def test_an_unknown_workflow_is_said(web, kit):
    assert web.get("/runs?workflow=flwo", expect=404)["hint"] == "did you mean `flow`?"


def test_other_workspaces_see_nothing(web, many):
    web.act_as(Role.ADMIN, workspace="other")
    assert web.get("/runs")["items"] == []
    assert web.get("/runs?search=light")["items"] == []
    for path in ("", "/nodes", "/nodes/a", "/nodes/a/attempts", "/nodes/a/attempts/1/logs", "/nodes/a/output"):
        web.get(f"/runs/{many[0]}{path}", expect=404)
    for path, body in (
        ("cancel", None),
        ("clear", {}),
        ("rerun", {}),
        ("note", {"note": "x"}),
        ("nodes/a/mark", {"state": "failed"}),
    ):
        web.post(f"/runs/{many[0]}/{path}", body, expect=404)
    web.delete(f"/runs/{many[0]}", expect=404)
    answer = web.post("/runs/bulk", {"action": "cancel", "ids": many})
    assert {item["status"] for item in answer["items"]} == {404}


def test_runs_that_do_not_exist(web):
    for run in ("nothing", str(uuid.UUID(int=0)), "%2e%2e", "a'--"):
        web.get(f"/runs/{run}", expect=404)
        web.post(f"/runs/{run}/cancel", expect=404)


# -- handling ----------------------------------------------------------------------------------------------------------


def test_an_ended_run_counts_its_node_runs(web, many):
    run = web.get(f"/runs/{many[1]}")
    assert (run["total_nodes"], run["open_nodes"]) == (4, 0)
    assert run["state_counts"] == {"success": 3, "failed": 1}


def test_cancel(web, kit):
    run = start(web)["id"]
    assert web.post(f"/runs/{run}/cancel") == {"id": run, "changed": True}
    assert web.post(f"/runs/{run}/cancel") == {"id": run, "changed": False}


def test_clear_with_a_preview(web, many, kit):
    preview = web.post(f"/runs/{many[1]}/clear", {"only_failed": True, "dry_run": True})
    assert (preview["changed"], preview["cleared"]) == (False, ["x"])
    assert preview["nodes"] == [{"run": many[1], "node": "x", "map_index": None, "state": "failed"}]
    assert web.get(f"/runs/{many[1]}")["state"] == "failed"
    assert web.post(f"/runs/{many[1]}/clear", {"nodes": ["b"], "downstream": True})["cleared"] == ["b", "c"]
    run = web.get(f"/runs/{many[1]}")
    assert (run["state"], run["state_counts"]) == ("running", None)
    web.patch("/workflows/flow", {"paused": False})
    kit.settle()
    assert web.get(f"/runs/{many[1]}")["state_counts"] == {"success": 3, "failed": 1}


def test_clear_refuses_what_is_no_node(web, many):
    web.post(f"/runs/{many[0]}/clear", {"nodes": ["none"]}, expect=404)
    web.post(f"/runs/{many[0]}/clear", {"nodes": ["not an address"]}, expect=422)
    web.post(f"/runs/{many[3]}/clear", {}, expect=409)


def test_rerun(web, many):
    answer = web.call("POST", f"/runs/{many[0]}/rerun", {"newest_version": True}, expect=201)
    assert answer.json["params"] == {"city": "Rome"}
    assert answer.json["triggered_by"] == "api"
    assert answer.headers["Location"].endswith(answer.json["id"])


def test_note(web, many):
    web.post(f"/runs/{many[0]}/note", {"note": "<script>alert(1)</script>"})
    assert web.get(f"/runs/{many[0]}")["note"] == "<script>alert(1)</script>"
    web.post(f"/runs/{many[0]}/note", {"note": ""})
    assert web.get(f"/runs/{many[0]}")["note"] is None


def test_delete(web, many):
    web.delete(f"/runs/{many[3]}", expect=409)
    web.delete(f"/runs/{many[0]}")
    web.get(f"/runs/{many[0]}", expect=404)


def test_viewers_only_look(web, many):
    web.act_as(Role.VIEWER)
    for path in ("cancel", "clear", "rerun", "note", "nodes/a/mark"):
        web.post(f"/runs/{many[0]}/{path}", {}, expect=403)
    web.delete(f"/runs/{many[0]}", expect=403)
    web.post("/runs/bulk", {"action": "cancel", "ids": many}, expect=403)
    web.get(f"/runs/{many[0]}")


def test_many_at_once_each_by_itself(web, many):
    unknown = str(uuid.UUID(int=1))
    answer = web.post("/runs/bulk", {"action": "delete", "ids": [many[0], many[3], unknown, many[0]]})
    assert [(item["id"], item["status"], item["changed"]) for item in answer["items"]] == [
        (many[0], 200, True),
        (many[3], 409, False),
        (unknown, 404, False),
    ]
    assert answer["items"][1]["error"]["type"] == "urn:agentflow:problem:conflict"
    assert len(web.get("/runs")["items"]) == 4


def test_each_bulk_action(web, many):
    def act(action, run, **keys):
        return web.post("/runs/bulk", {"action": action, "ids": [run], **keys})["items"][0]

    assert act("note", many[0], note="seen")["changed"]
    assert act("clear", many[1], clear={"only_failed": True, "dry_run": True})["changed"] is False
    rerun = act("rerun", many[1])
    assert (rerun["status"], web.get(f"/runs/{rerun['new_id']}")["note"]) == (201, f"rerun of {many[1]}")
    assert act("cancel", many[3])["changed"]


BAD_BULK = [
    {"action": "explode", "ids": ["a"]},
    {"action": "cancel", "ids": []},
    {"action": "cancel", "ids": ["a"] * 101},
    {"action": "cancel"},
    {"action": "clear", "ids": ["a"], "clear": {"everything": True}},
]


def test_bulk_bodies_that_are_not_valid(web):
    for body in BAD_BULK:
        web.post("/runs/bulk", body, expect=422)

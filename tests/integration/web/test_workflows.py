"""`/workflows/{name}`: create, read, change, delete, check, export."""

from __future__ import annotations

from uuid import UUID

import pytest

from agentflow.access import Role
from agentflow.catalog import apply_spec
from agentflow.db.engine import transact
from agentflow.objects.names import run_prefix
from agentflow.spec import content_hash, parse_document, parse_text

ETAG = "If-Match"


def document(name="flow", **keys):
    return {"name": name, "nodes": {"a": {"type": "noop"}}, **keys}


@pytest.fixture
def flow(web):
    return web.post("/workflows", document(title="Flow", tags=["x"]), expect=201)


@pytest.fixture
def file_owned(web):
    spec = parse_document(document("filed"))
    transact(web.engine, lambda c: apply_spec(c, spec, source="file", source_path="filed.yaml", actor="test"))


def test_create(web):
    answer = web.call("POST", "/workflows", document(), expect=201)
    assert answer.json == {"name": "flow", "version": 1, "changed": True, "created": True}
    assert answer.headers["Location"] == "/api/v1/workflows/flow"
    assert answer.headers["ETag"] == '"1"'
    (event,) = web.get("/events")["items"]
    assert (event["action"], event["actor"], event["subject"]) == ("workflow.created", "user:ada@example.org", "flow")


def test_create_needs_a_free_name(web, flow, file_owned):
    assert "already" in web.post("/workflows", document(timeout="1h"), expect=409)["detail"]
    web.post("/workflows", document("filed"), expect=409)
    assert web.get("/workflows/flow")["version"] == 1


def test_mistakes_in_a_document_are_told_with_their_paths(web):
    wrong = document(nodes={"a": {"type": "nope"}, "b": {"type": "noop", "needs": ["c"]}})
    problem = web.post("/workflows", wrong, expect=422)
    assert problem["type"] == "urn:agentflow:problem:invalid-spec"
    assert {error["path"] for error in problem["errors"]} == {"nodes.a.type", "nodes.b.needs[0]"}


@pytest.mark.parametrize("body", [[], "flow", 5, None])
def test_what_is_no_document_at_all(web, body):
    web.call("POST", "/workflows", json=body, expect=422)


def test_a_pool_that_does_not_exist(web):
    web.post("/workflows", document(nodes={"a": {"type": "noop", "pool": "gpu"}}), expect=404)


def test_show(web, flow):
    answer = web.call("GET", "/workflows/flow")
    assert answer.headers["ETag"] == '"1"'
    assert answer.json["spec"] == document(title="Flow", tags=["x"])
    assert answer.json["latest_run"] is None
    problem = web.get("/workflows/flwo", expect=404)
    assert problem["hint"] == "did you mean `flow`?"


def test_put_creates_changes_and_keeps(web):
    assert web.put("/workflows/flow", document(), expect=201)["created"]
    assert web.put("/workflows/flow", document(timeout="1h"))["version"] == 2
    again = web.put("/workflows/flow", document(timeout="1h"))
    assert again == {"name": "flow", "version": 2, "changed": False, "created": False}


def test_put_on_a_version_that_somebody_replaced(web, flow):
    assert web.put("/workflows/flow", document(timeout="1h"), headers={ETAG: '"1"'})["version"] == 2
    answer = web.call("PUT", "/workflows/flow", document(timeout="2h"), headers={ETAG: '"1"'}, expect=412)
    assert answer.headers["ETag"] == '"2"'
    assert (answer.json["type"], answer.json["current_version"]) == ("urn:agentflow:problem:precondition-failed", 2)
    assert web.get("/workflows/flow")["spec"]["timeout"] == "1h"


@pytest.mark.parametrize("etag", ["*", '"1"', 'W/"1"'])
def test_etags_that_match(web, flow, etag):
    web.put("/workflows/flow", document(timeout="1h"), headers={ETAG: etag})


@pytest.mark.parametrize("etag", ["1", '"x"', '"1", "2"', '"99999999999999"'])
def test_etags_that_are_none_of_ours(web, flow, etag):
    problem = web.put("/workflows/flow", document(timeout="1h"), headers={ETAG: etag}, expect=422)
    assert problem["errors"][0]["path"] == "header.If-Match"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "", {"paused": True}, 200),
        ("PUT", "/draft", {"document": {}, "base_version": 1}, 200),
        ("DELETE", "/draft", None, 204),
        ("DELETE", "", None, 204),
    ],
)
def test_every_change_can_be_made_on_a_version_only(web, flow, method, path, body, status):
    web.put("/workflows/flow/draft", {"document": {}, "base_version": 1})
    web.put("/workflows/flow", document(timeout="1h"))
    answer = web.call(method, f"/workflows/flow{path}", body, headers={ETAG: '"1"'}, expect=412)
    assert answer.headers["ETag"] == '"2"'
    assert not web.get("/workflows/flow")["paused"]
    assert web.get("/workflows/flow/draft")["revision"] == 1
    web.call(method, f"/workflows/flow{path}", body, headers={ETAG: '"2"'}, expect=status)


def test_an_etag_of_a_workflow_that_is_gone(web):
    web.put("/workflows/flow", document(), headers={ETAG: '"3"'}, expect=412)
    web.get("/workflows/flow", expect=404)


def test_the_name_never_changes(web, flow):
    problem = web.put("/workflows/flow", document("other"), expect=422)
    assert problem["errors"][0]["path"] == "name"


def test_a_file_owns_its_workflow_but_for_the_pause(web, file_owned):
    assert web.put("/workflows/filed", document("filed", timeout="1h"), expect=409)["type"].endswith("owned-by-file")
    assert web.patch("/workflows/filed", {"tags": ["a"]}, expect=409)["type"].endswith("owned-by-file")
    assert web.delete("/workflows/filed", expect=409)["type"].endswith("owned-by-file")
    assert web.patch("/workflows/filed", {"paused": True})["paused"]


def test_edits_keep_the_code_of_a_workflow(web):
    from agentflow.bundles import Bundle

    spec = parse_document(document(nodes={"a": {"type": "python", "config": {"function": "mine:main"}}}))
    bundle = Bundle(hash="b" * 64, data=b"code")
    transact(web.engine, lambda c: apply_spec(c, spec, source="api", source_path="/x.py", bundle=bundle, actor="test"))
    edited = document(nodes={"a": {"type": "python", "config": {"function": "mine:main"}, "retries": 2}})
    assert web.put("/workflows/flow", edited)["version"] == 2
    assert web.get("/workflows/flow/versions/2")["bundle_hash"] == "b" * 64
    without = document(nodes={"a": {"type": "noop"}})
    web.put("/workflows/flow", without)
    assert web.get("/workflows/flow/versions/3")["bundle_hash"] is None


def test_patch_merges(web, flow):
    assert web.patch("/workflows/flow", {"paused": True})["paused"]
    document = web.patch("/workflows/flow", {"tags": ["a", "b"]})
    assert (document["paused"], document["tags"], document["version"]) == (True, ["a", "b"], 1)
    assert document["spec"]["tags"] == ["a", "b"]
    assert web.patch("/workflows/flow", {"tags": None, "paused": False})["tags"] == []
    merged = web.call("PATCH", "/workflows/flow", data='{"paused": true}', content_type="application/merge-patch+json")
    assert merged.json["paused"]
    web.patch("/workflows/flow", {"title": "new"}, expect=422)
    web.patch("/workflows/flow", {"paused": None}, expect=422)


def test_operators_pause_and_editors_tag(web, flow):
    web.act_as(Role.OPERATOR)
    assert web.patch("/workflows/flow", {"paused": True})["paused"]
    web.patch("/workflows/flow", {"paused": False, "tags": []}, expect=403)
    assert web.get("/workflows/flow")["paused"]
    web.act_as(Role.VIEWER)
    web.patch("/workflows/flow", {"paused": False}, expect=403)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/workflows", document("new")),
        ("PUT", "/workflows/flow", document(timeout="1h")),
        ("DELETE", "/workflows/flow", None),
        ("PUT", "/workflows/flow/draft", {"document": {}, "base_version": 1}),
        ("DELETE", "/workflows/flow/draft", None),
        ("POST", "/workflows/flow/publish", {}),
    ],
)
def test_operators_change_no_definition(web, flow, method, path, body):
    web.act_as(Role.OPERATOR)
    web.call(method, path, body, expect=403)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"paused": True}),
        ("DELETE", "", None),
        ("GET", "/versions", None),
        ("GET", "/versions/1", None),
        ("GET", "/diff?from=1&to=1", None),
        ("GET", "/export", None),
        ("GET", "/draft", None),
        ("PUT", "/draft", {"document": {}, "base_version": 1}),
        ("POST", "/publish", {}),
    ],
)
def test_another_workspaces_workflow_is_not_there(web, flow, method, path, body):
    web.put("/workflows/flow/draft", {"document": document(), "base_version": 1})
    web.act_as(Role.ADMIN, workspace="other")
    web.call(method, f"/workflows/flow{path}", body, expect=404)


def test_the_same_name_in_two_workspaces(web, flow):
    web.act_as(Role.ADMIN, workspace="other")
    assert web.put("/workflows/flow", document(timeout="1h"), expect=201)["version"] == 1
    web.delete("/workflows/flow")
    web.act_as(Role.ADMIN)
    assert "timeout" not in web.get("/workflows/flow")["spec"]


def test_delete(web, flow):
    web.delete("/workflows/flow")
    web.get("/workflows/flow", expect=404)
    web.delete("/workflows/flow", expect=404)


# -- checking ----------------------------------------------------------------------------------------------------------


def test_validate_a_document(web):
    web.act_as(Role.VIEWER)
    good = web.post("/workflows/validate", {"spec": document()})
    assert good == {"valid": True, "name": "flow", "errors": [], "spec": document()}
    bad = web.post("/workflows/validate", {"spec": {"name": "X", "nodes": {}}})
    assert (bad["valid"], bad["spec"]) == (False, None)
    assert {error["path"] for error in bad["errors"]} == {"name", "nodes"}
    assert web.get("/workflows")["items"] == []


def test_validate_text_with_lines(web):
    report = web.post("/workflows/validate", {"text": "name: flow\nnodes:\n  a: {type: nope}\n"})
    (error,) = report["errors"]
    assert (error["line"], error["path"]) == (3, "nodes.a.type")
    assert web.post("/workflows/validate", {"text": '{"name": ', "file": "x.json"})["errors"][0]["line"] == 1


def test_validate_runs_nothing_and_wants_one_thing(web, tmp_path):
    proof = tmp_path / "proof"
    text = f"name: flow\nnodes:\n  a: {{type: python, config: {{code: 'open({str(proof)!r}, \"w\")'}}}}\n"
    web.post("/workflows/validate", {"text": text})
    assert not proof.exists()
    web.post("/workflows/validate", {}, expect=422)
    web.post("/workflows/validate", {"spec": {}, "text": ""}, expect=422)


# -- export ------------------------------------------------------------------------------------------------------------


def test_export_is_what_apply_takes(web, flow):
    web.act_as(Role.VIEWER)
    answer = web.call("GET", "/workflows/flow/export")
    assert answer.content_type == "application/yaml; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="flow.yaml"'
    assert content_hash(parse_text(answer.text, file="flow.yaml")) == content_hash(parse_document(document()))
    web.act_as(Role.EDITOR)
    web.put("/workflows/flow", document(timeout="1h"))
    assert "timeout" not in web.call("GET", "/workflows/flow/export?version=1").text
    web.get("/workflows/flow/export?version=9", expect=404)


def test_what_is_deleted_takes_its_objects_along(web, kit):
    """As the webserver's role, which may throw away nothing but objects of its own workspace's runs."""
    kit.apply({"a": {}})
    runs = [kit.run(), kit.run(), kit.run()]
    kit.sql("INSERT INTO output (run_id, node_no, map_index, bytes, ref) VALUES (:run, 1, -1, 70000, 'x')", run=runs[1])
    web.delete(f"/runs/{runs[0]}")
    web.delete("/workflows/flow")  # of its runs, those that have some
    places = kit.rows("SELECT prefix FROM object_trash ORDER BY 1")
    assert [prefix for (prefix,) in places] == [run_prefix(UUID(run)) for run in runs[:2]]

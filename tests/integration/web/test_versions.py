"""Versions, what differs between them, drafts."""

from __future__ import annotations

import pytest

from agentflow.access import Role
from agentflow.catalog import apply_spec
from agentflow.db.engine import transact
from agentflow.spec import parse_document


def document(**keys):
    return {"name": "flow", "nodes": {"a": {"type": "noop"}}, **keys}


@pytest.fixture
def flow(web):
    web.post("/workflows", document(), expect=201)
    web.put("/workflows/flow", document(nodes={"a": {"type": "noop"}, "b": {"type": "noop", "needs": ["a"]}}))
    web.put("/workflows/flow", document(timeout="1h"))


def test_list(web, flow):
    page = web.get("/workflows/flow/versions?limit=2")
    assert [(item["version"], item["published"]) for item in page["items"]] == [(3, True), (2, False)]
    rest = web.get(f"/workflows/flow/versions?cursor={page['next_cursor']}")
    assert [item["version"] for item in rest["items"]] == [1]
    assert rest["items"][0]["created_by"] == "user:ada@example.org"
    web.get("/workflows/none/versions", expect=404)


def test_one_with_its_spec_and_etag(web, flow):
    answer = web.call("GET", "/workflows/flow/versions/1")
    assert (answer.json["version"], answer.json["spec"]) == (1, document())
    headers = {"If-None-Match": answer.headers["ETag"]}
    assert web.client.get("/api/v1/workflows/flow/versions/1", headers=headers).status_code == 304
    assert web.client.get("/api/v1/workflows/flow/versions/2", headers=headers).status_code == 200


@pytest.mark.parametrize("version", ["0", "4", "-1", "x", "99999999999"])
def test_versions_that_do_not_exist(web, flow, version):
    web.get(f"/workflows/flow/versions/{version}", expect=404)


def test_diff(web, flow):
    found = web.get("/workflows/flow/diff?from=1&to=2")
    assert (found["from"], found["to"], found["identical"]) == (1, 2, False)
    assert found["nodes"]["added"] == ["b"]
    assert found["edges"]["added"] == [["a", "b"]]
    assert web.get("/workflows/flow/diff?from=1&to=3")["keys"] == [{"path": "timeout", "after": "1h"}]
    assert web.get("/workflows/flow/diff?from=2&to=2")["identical"]
    web.get("/workflows/flow/diff?from=1&to=9", expect=404)
    assert web.get("/workflows/flow/diff?from=1", expect=422)["errors"][0]["path"] == "query.to"


# -- drafts ------------------------------------------------------------------------------------------------------------


def save(web, doc, *, base=3, **keys):
    expect = keys.pop("expect", 200)
    return web.put("/workflows/flow/draft", {"document": doc, "base_version": base, **keys}, expect=expect)


def test_a_draft_need_not_be_valid(web, flow):
    saved = save(web, {"name": "flow", "nodes": "not yet"})
    assert web.get("/workflows/flow/draft") == saved
    assert (saved["base_version"], saved["published_version"], saved["revision"]) == (3, 3, 1)
    assert saved["document"]["nodes"] == "not yet"
    problem = web.post("/workflows/flow/publish", expect=422)
    assert problem["type"] == "urn:agentflow:problem:invalid-spec"
    web.delete("/workflows/flow/draft")
    web.get("/workflows/flow/draft", expect=404)
    web.delete("/workflows/flow/draft", expect=404)
    web.post("/workflows/flow/publish", expect=404)


def test_publish_makes_a_version_with_its_message(web, flow):
    save(web, document(timeout="2h"))
    answer = web.call("POST", "/workflows/flow/publish", {"message": "longer"})
    assert (answer.json["version"], answer.headers["ETag"]) == (4, '"4"')
    assert web.get("/workflows/flow/versions")["items"][0]["message"] == "longer"
    assert web.get("/workflows/flow")["spec"]["timeout"] == "2h"
    web.get("/workflows/flow/draft", expect=404)
    assert web.get("/events?action=workflow.published")["items"][0]["detail"] == {"version": 4}


def test_publishing_on_another_base_tells_the_difference(web, flow):
    save(web, document(timeout="2h"))
    web.put("/workflows/flow", document(timeout="3h"))
    answer = web.call("POST", "/workflows/flow/publish", {}, expect=412)
    assert answer.headers["ETag"] == '"4"'
    assert answer.json["current_version"] == 4
    assert answer.json["changes"]["keys"] == [{"path": "timeout", "before": "3h", "after": "2h"}]
    assert web.get("/workflows/flow")["version"] == 4
    save(web, document(timeout="2h"), base=4)
    assert web.post("/workflows/flow/publish")["version"] == 5


def test_publishing_over_a_version_that_the_caller_has_not_seen(web, flow):
    save(web, document(timeout="2h"))
    answer = web.call("POST", "/workflows/flow/publish", {}, expect=412, headers={"If-Match": '"2"'})
    assert answer.json["changes"]["keys"] == [{"path": "timeout", "before": "1h", "after": "2h"}]
    assert web.post("/workflows/flow/publish", headers={"If-Match": '"3"'})["version"] == 4


def test_two_editors_of_one_draft(web, flow):
    assert save(web, document(timeout="2h"), revision=0)["revision"] == 1
    assert save(web, document(timeout="4h"), revision=1)["revision"] == 2
    assert "user:ada" in save(web, document(timeout="3h"), revision=1, expect=409)["hint"]
    assert web.get("/workflows/flow/draft")["document"]["timeout"] == "4h"
    assert save(web, document())["revision"] == 3  # whoever does not say is not asked


def test_a_base_that_does_not_exist_yet(web, flow):
    save(web, document(), base=4, expect=409)


def test_another_name_is_not_published(web, flow):
    save(web, document() | {"name": "other"})
    assert web.post("/workflows/flow/publish", expect=422)["errors"][0]["path"] == "name"


def test_files_have_no_drafts(web):
    spec = parse_document(document())
    transact(web.engine, lambda c: apply_spec(c, spec, source="file", source_path="f.yaml", actor="test"))
    assert save(web, document(), base=1, expect=409)["type"].endswith("owned-by-file")


def test_a_draft_goes_with_its_workflow(web, flow):
    save(web, document())
    web.delete("/workflows/flow")
    web.post("/workflows", document(), expect=201)
    web.get("/workflows/flow/draft", expect=404)


def test_viewers_read_drafts(web, flow):
    save(web, document())
    web.act_as(Role.VIEWER)
    assert web.get("/workflows/flow/draft")["revision"] == 1

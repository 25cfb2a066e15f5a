"""`/workflows/apply`: workflows with their code, all or none."""

from __future__ import annotations

import base64

import pytest

from agentflow.access import Role
from agentflow.bundles import build_bundle

CODED = {"name": "coded", "nodes": {"a": {"type": "python", "config": {"function": "helper:main"}}}}
PLAIN = {"name": "plain", "nodes": {"a": {"type": "noop"}}}


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper.py").write_text("def main():\n    return 1\n")
    return build_bundle(tmp_path / "code")


def body(*workflows, **bundles):
    return {"workflows": list(workflows), "bundles": {name.lstrip("_"): data for name, data in bundles.items()}}


def coded(bundle):
    return body(
        {"spec": CODED, "source_path": "/x/coded.py", "bundle": bundle.hash},
        {"spec": PLAIN},
        **{f"_{bundle.hash}": base64.b64encode(bundle.data).decode()},
    )


def test_it_stores_code_and_workflows(web, bundle):
    first = web.post("/workflows/apply", coded(bundle))["items"]
    assert first == [
        {"name": "coded", "version": 1, "changed": True, "created": True},
        {"name": "plain", "version": 1, "changed": True, "created": True},
    ]
    assert [item["changed"] for item in web.post("/workflows/apply", coded(bundle))["items"]] == [False, False]
    assert web.get("/workflows/coded/versions/1")["bundle_hash"] == bundle.hash
    assert web.get("/workflows/coded")["source_path"] == "/x/coded.py"


def test_one_that_is_not_valid_keeps_all_out(web):
    broken = {"name": "broken", "nodes": {"a": {"type": "noop", "needs": ["b"]}}}
    problem = web.post("/workflows/apply", body({"spec": PLAIN}, {"spec": broken}), expect=422)
    assert problem["type"] == "urn:agentflow:problem:invalid-spec"
    assert web.get("/workflows")["items"] == []


def test_one_that_conflicts_keeps_all_out(web, bundle):
    pooled = {"name": "pooled", "nodes": {"a": {"type": "noop", "pool": "none"}}}
    web.post("/workflows/apply", body({"spec": PLAIN}, {"spec": pooled}), expect=404)
    assert web.get("/workflows")["items"] == []


def test_code_must_be_what_its_hash_says(web, bundle):
    given = coded(bundle)
    given["bundles"] = {"0" * 64: given["bundles"][bundle.hash]}
    given["workflows"][0]["bundle"] = "0" * 64
    problem = web.post("/workflows/apply", given, expect=422)
    assert problem["type"] == "urn:agentflow:problem:bundle-damaged"


@pytest.mark.parametrize("data", ["****", base64.b64encode(b"no gzip").decode()])
def test_code_must_be_a_bundle(web, bundle, data):
    given = coded(bundle)
    given["bundles"][bundle.hash] = data
    web.post("/workflows/apply", given, expect=422)


def test_a_hash_alone_gives_nobody_the_code(web, bundle):
    web.post("/workflows/apply", coded(bundle))
    web.act_as(Role.EDITOR, workspace="elsewhere")
    problem = web.post("/workflows/apply", body({"spec": CODED, "bundle": bundle.hash}), expect=422)
    assert problem["errors"][0]["path"] == "body.workflows[0].bundle"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_it_is_for_editors(web, role):
    web.act_as(role)
    web.post("/workflows/apply", body({"spec": PLAIN}), expect=403)


@pytest.mark.parametrize("given", [{}, {"workflows": []}, {"workflows": [{"spec": PLAIN, "bundle": "x"}]}])
def test_bodies_that_are_none(web, given):
    web.post("/workflows/apply", given, expect=422)

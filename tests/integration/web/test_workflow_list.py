"""`GET /workflows`."""

from __future__ import annotations

import pytest

from agentflow.access import Role
from agentflow.catalog import apply_spec, set_paused
from agentflow.db.engine import transact
from agentflow.spec import parse_document

NODES = {"a": {"type": "noop"}}


@pytest.fixture
def apply(web):
    def apply(name, *, workspace="default", **keys):
        spec = parse_document({"name": name, "nodes": NODES, **keys})
        transact(web.engine, lambda c: apply_spec(c, spec, source="api", actor="test", workspace=workspace))

    return apply


def names(page):
    return [item["name"] for item in page["items"]]


def test_an_empty_list(web):
    assert web.get("/workflows") == {"items": [], "next_cursor": None}


def test_pages_follow_each_other_by_name(web, apply):
    for name in ("c", "a", "b"):
        apply(name)
    first = web.get("/workflows?limit=2")
    assert names(first) == ["a", "b"]
    second = web.get(f"/workflows?limit=2&cursor={first['next_cursor']}")
    assert (names(second), second["next_cursor"]) == (["c"], None)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("search=SALES", ["sales"]),
        ("search=week", ["report"]),  # of the title
        ("search=%25", []),  # no pattern
        ("search=' OR 1=1 --", []),
        ("tag=eu", ["report", "sales"]),
        ("tag=eu&tag=daily", ["sales"]),
        ("paused=true", ["report"]),
        ("paused=false", ["sales"]),
        ("source=api", ["report", "sales"]),
        ("source=file", []),
    ],
)
def test_filters(web, apply, query, found):
    apply("sales", tags=["eu", "daily"])
    apply("report", title="Weekly report", tags=["eu"])
    transact(web.engine, lambda c: set_paused(c, "report", True, "test"))
    assert names(web.get(f"/workflows?{query}")) == found


def test_other_workspaces_are_not_seen(web, apply):
    web.act_as(Role.ADMIN, workspace="other")
    web.act_as(Role.ADMIN)
    apply("mine")
    apply("theirs", workspace="other")
    assert names(web.get("/workflows")) == ["mine"]

"""Backfills over HTTP."""

from __future__ import annotations

import pytest

from agentflow.access import Role

DAYS = {"from": "2026-11-01", "to": "2026-11-03"}


@pytest.fixture
def flow(web, kit):
    kit.apply(
        {"a": {}}, triggers=[{"type": "cron", "cron": "0 6 * * *"}], params={"n": {"type": "integer", "default": 1}}
    )


def make(web, body=None, expect=201, **keys):
    return web.post("/workflows/flow/backfills", DAYS | (body or {}), expect=expect, **keys)


def test_a_preview_makes_nothing(web, flow):
    preview = make(web, {"dry_run": True}, expect=200)
    assert (preview["count"], preview["runs"], preview["more"]) == (3, 3, 0)
    assert preview["items"][0] == {
        "logical_date": "2026-11-01T06:00:00.000000Z",
        "run": None,
        "state": None,
        "action": "run",
    }
    assert web.get("/backfills")["items"] == []


def test_make_show_pause_cancel(web, flow):
    made = make(web, {"params": {"n": 2}, "reverse": True})
    assert (made["state"], made["counts"]["total"], made["paused"]) == ("running", 3, False)
    shown = web.get(f"/backfills/{made['id']}")
    assert shown == {key: value for key, value in made.items() if key != "paused"}
    assert web.get("/backfills?workflow=flow&state=running")["items"] == [shown]
    assert make(web, expect=409)["type"].endswith("conflict")
    assert web.patch(f"/backfills/{made['id']}", {"paused": True})["changed"]
    assert web.get(f"/backfills/{made['id']}")["state"] == "paused"
    assert web.post(f"/backfills/{made['id']}/cancel") == {"id": made["id"], "changed": True, "cancelled": 0}
    web.patch(f"/backfills/{made['id']}", {"paused": False}, expect=409)


def test_the_same_key_makes_one(web, flow):
    headers = {"Idempotency-Key": "b-1"}
    assert make(web, headers=headers) == make(web, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        {"from": "soon"},
        {"from": "2026-11-05"},
        {"reprocess": "some"},
        {"max_active_runs": 0},
        {"params": {"n": "x"}},
        {"trigger": "none"},
        {"dates": []},
    ],
)
def test_bodies_that_are_not_valid(web, flow, body):
    answer = web.client.post("/api/v1/workflows/flow/backfills", json=DAYS | body)
    assert answer.status_code in {404, 409, 422}, answer.text


def test_whose(web, flow):
    made = make(web)
    web.act_as(Role.VIEWER)
    make(web, expect=403)
    web.post(f"/backfills/{made['id']}/cancel", expect=403)
    web.act_as(Role.ADMIN, workspace="other")
    for path in (f"/backfills/{made['id']}", "/backfills/nothing"):
        web.get(path, expect=404)
    web.post(f"/backfills/{made['id']}/cancel", expect=404)
    make(web, expect=404)
    assert web.get("/backfills")["items"] == []

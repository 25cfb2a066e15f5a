"""Webhooks: tokens are made and revoked by people, deliveries start runs."""

from __future__ import annotations

import hashlib
import hmac
import json
import time

import pytest

from agentflow.access import Role
from agentflow.catalog import apply_spec, set_paused
from agentflow.db.engine import transact
from agentflow.spec import parse_document
from agentflow.webhooks.signature import sign

PARAMS = {
    "city": {"type": "string"},
    "days": {"type": "integer", "default": 1},
    "event": {"type": "object", "default": {}},
}


@pytest.fixture
def hooked(web):
    """A workflow with a webhook; returns what calls a token's address."""
    apply(web)
    return web


def apply(web, *triggers, name="flow", params=PARAMS):
    document = {
        "name": name,
        "params": params,
        "triggers": list(triggers) or [{"type": "webhook", "params": {"city": "Rome"}}],
        "nodes": {"a": {"type": "noop"}},
    }
    transact(web.engine, lambda c: apply_spec(c, parse_document(document), source="api", actor="test"))


def rotate(web, expect=200, name="flow", **body):
    return web.post(f"/workflows/{name}/webhook", body, expect=expect)


def send(web, token, payload=None, *, expect=202, headers=None, query=""):
    web.act_as_nobody()
    answer = web.post(f"/hooks/{token}{query}", payload, expect=expect, headers=headers or {})
    web.act_as(Role.ADMIN)
    return answer


def runs(web):
    with web.engine.begin() as connection:
        return list(connection.exec_driver_sql("SELECT params, triggered_by, actor, state FROM run ORDER BY id"))


def test_a_delivery_queues_a_run_with_its_body_as_params(hooked):
    token = rotate(hooked)["token"]
    answer = send(hooked, token, {"days": 3})
    assert answer["workflow"] == "flow"
    send(hooked, token)  # no body: the trigger's params and the defaults
    first, second = runs(hooked)
    assert first.params == {"city": "Rome", "days": 3, "event": {}}
    assert (first.triggered_by, first.actor, first.state) == ("webhook", "webhook:flow/webhook", "queued")
    assert second.params["days"] == 1


def test_a_whole_body_can_be_one_param(hooked):
    token = rotate(hooked)["token"]
    send(hooked, token, {"action": "opened"}, query="?into=event")
    assert runs(hooked)[0].params["event"] == {"action": "opened"}


@pytest.mark.parametrize(
    ("payload", "query", "path"),
    [
        ({"days": "many"}, "", "days"),
        ({"nothing": 1}, "", "nothing"),
        ([1], "", "body"),
        ({"a": 1}, "?into=nothing", "nothing"),
    ],
)
def test_a_body_that_does_not_fit_starts_nothing(hooked, payload, query, path):
    token = rotate(hooked)["token"]
    problem = send(hooked, token, payload, query=query, expect=422)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert runs(hooked) == []


def test_tokens_that_are_not_there_look_alike(hooked):
    old = rotate(hooked)["token"]
    new = rotate(hooked)["token"]
    told = {json.dumps(send(hooked, token, expect=404) | {"detail": ""}) for token in (old, "whk_guess", "x" * 100)}
    assert len(told) == 1
    assert send(hooked, old, expect=404)["detail"] == send(hooked, "whk_guess", expect=404)["detail"]
    send(hooked, new)
    hooked.delete("/workflows/flow/webhook/webhook")
    send(hooked, new, expect=404)
    hooked.delete("/workflows/flow/webhook/webhook", expect=404)


def test_a_token_outlives_changes_of_its_trigger_and_dies_with_it(hooked):
    token = rotate(hooked)["token"]
    apply(hooked, {"type": "webhook", "params": {"city": "Oslo"}})
    send(hooked, token)
    assert runs(hooked)[0].params["city"] == "Oslo"
    apply(hooked, {"type": "cron", "cron": "0 6 * * *", "params": {"city": "Oslo"}})
    send(hooked, token, expect=404)
    apply(hooked)
    send(hooked, token)


def test_each_of_several_webhooks_has_its_own_token(web):
    apply(
        web,
        {"type": "webhook", "name": "a", "params": {"city": "A"}},
        {"type": "webhook", "name": "b", "params": {"city": "B"}},
    )
    assert "a, b" in rotate(web, expect=422)["hint"]
    token = rotate(web, trigger="b")["token"]
    send(web, token)
    assert runs(web)[0].params["city"] == "B"
    rotate(web, trigger="c", expect=404)
    listed = {item["name"]: item for item in web.get("/webhooks")["items"]}
    assert (listed["flow/a"]["prefix"], listed["flow/b"]["prefix"]) == (None, token[:12])
    assert listed["flow/b"]["used_at"] is not None
    assert token not in json.dumps(web.get("/webhooks"))
    first = web.get("/webhooks?limit=1")
    assert [item["name"] for item in first["items"]] == ["flow/a"]
    rest = web.get(f"/webhooks?limit=1&cursor={first['next_cursor']}")
    assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["flow/b"], None)


def test_a_signed_webhook_takes_only_signed_deliveries_once(hooked):
    made = rotate(hooked, signed=True)
    body = b'{"days": 2}'
    sent = int(time.time())
    headers = {
        "webhook-id": "m1",
        "webhook-timestamp": str(sent),
        "webhook-signature": sign(made["signing_secret"], "m1", sent, body),
        "Content-Type": "application/json",
    }

    def post(expect, **changed):
        return hooked.call(
            "POST", f"/hooks/{made['token']}", expect=expect, data=body, headers=headers | changed
        ).get_json()

    assert post(401, **{"webhook-id": "m2"})["type"] == "urn:agentflow:problem:signature-refused"
    first = post(202)
    again = post(409)
    assert again["type"] == "urn:agentflow:problem:replayed"
    assert first["run_id"] in again["detail"]
    assert len(runs(hooked)) == 1
    send(hooked, made["token"], {"days": 2}, expect=401)
    with hooked.engine.begin() as connection:
        stored = connection.exec_driver_sql("SELECT ciphertext FROM webhook").scalar()
    assert made["signing_secret"].encode() not in bytes(stored)


def test_a_delivery_signed_as_github_does_is_not_taken_again_under_another_id(hooked):
    made = rotate(hooked, signed=True)

    def post(delivery, body, expect):
        good = hmac.new(made["signing_secret"].encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={good}", "X-GitHub-Delivery": delivery}
        return hooked.call(
            "POST",
            f"/hooks/{made['token']}",
            expect=expect,
            data=body,
            headers=headers,
            content_type="application/json",
        ).get_json()

    first = post("d1", b'{"days": 2}', 202)
    for again in ("d1", "d2"):
        assert first["run_id"] in post(again, b'{"days": 2}', 409)["detail"]
    post("d1", b'{"days": 3}', 409)
    post("d3", b'{"days": 3}', 202)
    assert [run.params["days"] for run in runs(hooked)] == [2, 3]


def test_an_unsigned_delivery_with_an_id_is_taken_once(hooked):
    token = rotate(hooked)["token"]
    send(hooked, token, headers={"Idempotency-Key": "k"})
    send(hooked, token, headers={"Idempotency-Key": "k"}, expect=409)
    send(hooked, token, headers={"Idempotency-Key": "other"})
    with hooked.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE webhook_delivery SET at = at - interval '25 hours'")
    send(hooked, token, headers={"Idempotency-Key": "k"})
    assert len(runs(hooked)) == 3


def test_paused_workflows_and_triggers_take_nothing(hooked):
    token = rotate(hooked)["token"]
    transact(hooked.engine, lambda c: set_paused(c, "flow", paused=True, actor="test"))
    assert send(hooked, token, expect=409)["type"] == "urn:agentflow:problem:paused"
    transact(hooked.engine, lambda c: set_paused(c, "flow", paused=False, actor="test"))
    apply(hooked, {"type": "webhook", "paused": True, "params": {"city": "Rome"}})
    send(hooked, token, expect=409)
    assert runs(hooked) == []


def test_a_full_queue_sends_senders_away(hooked):
    token = rotate(hooked)["token"]
    with hooked.engine.begin() as connection:
        connection.exec_driver_sql("""
            INSERT INTO run (id, workspace_id, workflow_id, version_id, state, triggered_by, params, actor)
            SELECT gen_random_uuid(), w.workspace_id, w.id, w.published_version_id, 'queued', 'manual', '{}', 'test'
            FROM workflow w, generate_series(1, 100)""")
    assert send(hooked, token, expect=429)["type"] == "urn:agentflow:problem:queue-full"


@pytest.mark.parametrize(
    ("data", "kind", "expect"),
    [
        (b"{", "application/json", 400),
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"x" * 20_000_000, "application/json", 413),
    ],
)
def test_bodies_that_are_no_json_are_refused(hooked, data, kind, expect):
    token = rotate(hooked)["token"]
    hooked.call("POST", f"/hooks/{token}", expect=expect, data=data, content_type=kind)


def test_tokens_are_for_editors(hooked):
    hooked.act_as(Role.OPERATOR)
    rotate(hooked, expect=403)
    hooked.delete("/workflows/flow/webhook/webhook", expect=403)
    hooked.act_as(Role.ADMIN, workspace="elsewhere")
    rotate(hooked, expect=404)


def test_every_change_of_a_token_is_in_the_audit_log(hooked):
    rotate(hooked)
    hooked.delete("/workflows/flow/webhook/webhook")
    with hooked.engine.begin() as connection:
        rows = connection.exec_driver_sql(
            "SELECT action, subject FROM audit_event WHERE action LIKE 'webhook%%' ORDER BY id"
        )
        assert [tuple(row) for row in rows] == [
            ("webhook.rotated", "flow/webhook"),
            ("webhook.revoked", "flow/webhook"),
        ]

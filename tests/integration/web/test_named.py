"""Pools, variables, secrets and connections: the same operations on each."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from agentflow.access import Role

SECRET = "a value that nobody may see"

#: Path, role that may change it, a body, what shows of it, another body, what shows then.
KINDS = {
    "pools": (
        Role.ADMIN,
        {"slots": 3, "description": "GPUs"},
        {"slots": 3, "description": "GPUs", "used": 0},
        {"slots": 0},
        {"slots": 0, "description": "GPUs", "used": 0},
    ),
    "variables": (
        Role.EDITOR,
        {"value": {"a": [1, None]}},
        {"value": {"a": [1, None]}},
        {"value": None},
        {"value": None},
    ),
    "secrets": (Role.EDITOR, {"value": SECRET}, {}, {"value": SECRET + "!"}, {}),
    "connections": (
        Role.EDITOR,
        {"type": "http", "config": {"url": "x"}, "secrets": {"token": SECRET}},
        {"type": "http", "config": {"url": "x"}, "secret_fields": ["token"]},
        {"type": "http", "config": {"url": "y"}},
        {"type": "http", "config": {"url": "y"}, "secret_fields": []},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_create_show_replace_delete(web, kind):
    role, first, first_shown, second, second_shown = KINDS[kind]
    web.act_as(role)
    made = web.put(f"/{kind}/thing", first, expect=201)
    assert made | first_shown == made
    assert made["name"] == "thing"
    assert web.get(f"/{kind}/thing") == made
    assert made in web.get(f"/{kind}")["items"]
    replaced = web.put(f"/{kind}/thing", second)
    assert replaced | second_shown == replaced
    web.delete(f"/{kind}/thing")
    web.get(f"/{kind}/thing", expect=404)
    web.delete(f"/{kind}/thing", expect=404)
    done = [(event["action"], event["actor"]) for event in web.get("/events?subject=thing")["items"]]
    word = kind.removesuffix("s")
    assert done == [(f"{word}.{what}", "user:ada@example.org") for what in ("deleted", "set", "set")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lower_role_reads_and_changes_nothing(web, kind):
    role, body, *_ = KINDS[kind]
    web.put(f"/{kind}/thing", body, expect=201)
    web.act_as(list(Role)[list(Role).index(role) - 1])
    web.put(f"/{kind}/thing", body, expect=403)
    web.delete(f"/{kind}/thing", expect=403)
    web.act_as(Role.VIEWER)
    assert web.get(f"/{kind}/thing")["name"] == "thing"


@pytest.mark.parametrize("kind", KINDS)
def test_each_workspace_has_its_own(web, kind):
    _, body, *_ = KINDS[kind]
    web.put(f"/{kind}/thing", body, expect=201)
    web.act_as(Role.ADMIN, workspace="other")
    assert "thing" not in [item["name"] for item in web.get(f"/{kind}")["items"]]
    web.get(f"/{kind}/thing", expect=404)
    web.delete(f"/{kind}/thing", expect=404)
    web.put(f"/{kind}/thing", body, expect=201)


@pytest.mark.parametrize("kind", KINDS)
def test_pages(web, kind):
    _, body, *_ = KINDS[kind]
    for name in ("b", "a", "c"):
        web.put(f"/{kind}/{name}", body, expect=201)
    page = web.get(f"/{kind}?limit=2")
    assert [item["name"] for item in page["items"]] == ["a", "b"]
    rest = web.get(f"/{kind}?limit=2&cursor={page['next_cursor']}")
    assert rest["items"][0]["name"] == "c"
    assert rest["next_cursor"] is None


def test_a_cursor_of_another_list_is_refused(web):
    for name in ("a", "b"):
        web.put(f"/variables/{name}", {"value": 1}, expect=201)
    cursor = web.get("/variables?limit=1")["next_cursor"]
    web.get(f"/secrets?cursor={cursor}", expect=422)


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/pools/p", {"slots": -1}, "body.slots"),
        ("/pools/p", {"slots": "many"}, "body.slots"),
        ("/pools/p", {"slots": 10**30}, "body.slots"),
        ("/pools/p", {}, "body.slots"),
        ("/pools/p", {"slots": 1, "used": 5}, "body.used"),
        ("/variables/v", {}, "body.value"),
        ("/variables/v", {"value": "a\0b"}, "body"),
        ("/secrets/s", {"value": 5}, "body.value"),
        ("/connections/c", {"type": "http", "secrets": {"a": 1}}, "body.secrets.a"),
        ("/connections/c", {"type": "http", "workspace_id": 2}, "body.workspace_id"),
        ("/connections/c", ["http"], "body"),
    ],
)
def test_bodies_that_are_not_valid(web, path, body, place):
    assert web.put(path, body, expect=422)["errors"][0]["path"] == place


@pytest.mark.parametrize("name", ["1st", "a b", "%24", "a" * 101, "%00"])
def test_names_that_cannot_be(web, name):
    answer = web.client.put(f"/api/v1/variables/{name}", json={"value": 1})
    assert answer.status_code in {404, 422}
    web.get(f"/variables/{name}", expect=404)


def test_values_of_secrets_show_nowhere(web, caplog):
    web.put("/secrets/s", {"value": SECRET}, expect=201)
    web.put("/connections/c", {"type": "http", "secrets": {"token": SECRET}}, expect=201)
    web.put("/secrets/s", {"value": SECRET, "extra": SECRET}, expect=422)
    seen = [web.get(path) for path in ("/secrets", "/secrets/s", "/connections", "/connections/c", "/events")]
    refused = web.client.put("/api/v1/secrets/1st", json={"value": SECRET})
    assert SECRET not in json.dumps(seen) + refused.text + caplog.text


def test_the_default_pool_stays(web):
    problem = web.delete("/pools/default", expect=409)
    assert problem["type"] == "urn:agentflow:problem:conflict"


def test_without_a_key_secrets_cannot_be_set(web, tmp_path):
    from dataclasses import replace

    from webserver.state import EXTENSION

    state = web.app.extensions[EXTENSION]
    web.app.extensions[EXTENSION] = replace(state, settings=state.settings.model_copy(update={"secret_key": ""}))
    assert "openssl" in web.put("/secrets/s", {"value": "x"}, expect=503)["hint"]


def test_statements_in_names_are_only_names(web):
    web.get("/variables/x'; DROP TABLE variable; --", expect=404)
    with web.engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM variable")) == 0

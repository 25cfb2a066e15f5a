"""Limits by user, key and address, and by what a request does."""

from __future__ import annotations

import pytest

from agentflow.access import Role
from agentflow.errors import SettingsError
from agentflow.settings import load_settings
from tests.auth_kit import AuthKit
from tests.live_kit import until
from webserver.access import Access
from webserver.ratelimits import _HOOK, _LOGINS, class_of
from webserver.state import web_of

ADA, BOB = "ada@example.org", "bob@example.org"


@pytest.fixture
def limited(engine, tmp_path):
    """Call it with limits to get the app with them."""
    made = []

    def make(**limits):
        kit = AuthKit(engine, tmp_path, **limits)
        made.append(kit)
        for email in (ADA, BOB) if len(made) == 1 else ():
            kit.user(email, Role.EDITOR)
        return kit

    yield make
    for kit in made:
        kit.close()


def test_each_user_and_key_has_a_count_of_its_own(limited):
    web = limited(rate_limit_read="3/minute")
    ada, key = web.bearer(ADA), web.key("read", user=ADA)
    assert [web.call("GET", "/workflows", ada).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert web.call("GET", "/workflows", web.bearer(ADA)).status_code == 429, "another session is the same user"
    assert web.call("GET", "/workflows", web.bearer(BOB)).status_code == 200
    assert web.call("GET", "/workflows", key).status_code == 200
    assert web.call("GET", "/workflows", ada, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 429


def test_an_answer_tells_what_is_left_and_a_refusal_when_to_come_back(limited):
    web = limited(rate_limit_read="2/hour")
    ada = web.bearer(ADA)
    first, _, third = (web.call("GET", "/workflows", ada) for _ in range(3))
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
    assert 0 < int(first.headers["RateLimit-Reset"]) <= 3600
    assert third.status_code == 429
    assert third.content_type == "application/problem+json"
    assert third.get_json()["type"] == "urn:agentflow:problem:rate-limited"
    assert 0 < int(third.headers["Retry-After"]) <= 3600
    assert third.headers["RateLimit-Remaining"] == "0"


def test_reading_writing_and_runs_are_counted_apart(limited):
    web = limited(rate_limit_read="1/minute", rate_limit_write="1/minute")
    ada = web.bearer(ADA)
    assert web.call("PUT", "/variables/x", ada, {"value": 1}).status_code == 201
    assert web.call("PUT", "/variables/x", ada, {"value": 2}).status_code == 429
    assert web.call("GET", "/variables", ada).status_code == 200
    assert web.call("PATCH", "/workflows/none", ada, {"paused": True}).status_code == 404


def test_logins_are_limited_by_address(limited):
    web = limited(rate_limit_login="2/minute")
    assert [web.login(f"{n}@example.org").status_code for n in range(3)] == [401, 401, 429]
    assert web.login(ADA, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 200


def test_wrong_credentials_are_limited_by_address_however_they_differ(limited):
    web = limited(rate_limit_refused="2/minute")
    wrong = [{"X-API-Key": f"af_{n}"} for n in range(3)]
    assert [web.call("GET", "/workflows", headers).status_code for headers in wrong] == [401, 401, 429]
    assert web.call("GET", "/workflows", web.bearer(ADA)).status_code == 200, "who has good ones is not kept out"


def test_health_is_never_refused_and_no_limit_says_nothing(limited):
    web = limited(rate_limit_read="1/minute")
    assert [web.call("GET", path).status_code for path in ["healthz"] * 3] == [200] * 3
    assert "RateLimit-Limit" not in web.call("GET", "healthz").headers


def test_an_address_cannot_be_lied_about(limited):
    """Without proxies of ours X-Forwarded-For is what anybody likes to say."""
    web = limited(rate_limit_login="1/minute")
    answers = [
        web.call("POST", "/auth/login", {"X-Forwarded-For": f"192.0.2.{n}"}, {"email": "x@y", "password": "x"})
        for n in range(2)
    ]
    assert [answer.status_code for answer in answers] == [401, 429]


def test_without_redis_counting_goes_on_here(limited):
    web = limited(rate_limit_read="2/minute", redis_url="redis://127.0.0.1:1/0")
    ada = web.bearer(ADA)
    assert [web.call("GET", "/workflows", ada).status_code for _ in range(3)] == [200, 200, 429]


def test_with_redis_all_processes_count_together(limited, redis_server):
    one, other = (limited(rate_limit_read="3/minute", redis_url=redis_server.url) for _ in range(2))
    ada = one.bearer(ADA)
    answers = [web.call("GET", "/workflows", ada).status_code for web in (one, other, one, other)]
    assert answers == [200, 200, 200, 429]
    assert one.call("GET", "/workflows", ada).status_code == 429
    assert one.call("GET", "/workflows", one.bearer(BOB)).status_code == 200
    with redis_server.client() as client:
        lifetimes = [client.ttl(key) for key in client.scan_iter()]
    assert lifetimes
    assert min(lifetimes) > 0, "nothing is kept for ever"


def test_a_redis_that_is_killed_while_it_counts(limited, redis_server):
    web = limited(rate_limit_read="3/minute", redis_url=redis_server.url)
    ada = web.bearer(ADA)

    def ask():
        return web.call("GET", "/workflows", ada).status_code

    assert [ask(), ask()] == [200, 200]
    redis_server.kill()
    assert [ask() for _ in range(4)] == [200, 200, 200, 429], "counted here, from nothing"
    redis_server.start()
    until(lambda: not web_of(web.app).redis.away, "Redis is found again")
    assert [ask() for _ in range(4)] == [200, 200, 200, 429], "counted there again; it has forgotten, too"


def test_a_redis_that_says_nothing_keeps_one_request_waiting(limited, redis_server):
    web = limited(rate_limit_read="3/minute", redis_url=redis_server.url)
    ada = web.bearer(ADA)
    web.call("GET", "/workflows", ada)
    redis_server.freeze()
    try:
        assert [web.call("GET", "/workflows", ada).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert web_of(web.app).redis.away
    finally:
        redis_server.thaw()


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "127.0.0.1:6379", "valkey://x"])
def test_an_address_that_is_no_redis_is_refused_at_start(monkeypatch, url):
    monkeypatch.setenv("AGENTFLOW_REDIS_URL", url)
    with pytest.raises(SettingsError, match="redis://"):
        load_settings()


@pytest.mark.parametrize(
    ("endpoint", "method", "role", "expected"),
    [
        ("auth.login", "POST", None, "login"),
        ("auth.refresh", "POST", None, "login"),
        ("webhooks.deliver", "POST", None, "hook"),
        ("runs.list_runs", "GET", Role.VIEWER, "read"),
        ("runs.cancel", "POST", Role.OPERATOR, "run"),
        ("variables.put", "PUT", Role.EDITOR, "write"),
        ("workflows.validate", "POST", Role.VIEWER, "write"),
    ],
)
def test_what_a_request_counts_as(endpoint, method, role, expected):
    assert class_of(endpoint, method, Access(role=role)) == expected


@pytest.mark.parametrize("text", ["0/minute", "10", "10/day", "many/minute", "10 per minute"])
def test_a_limit_that_is_none_is_refused_at_start(monkeypatch, text):
    monkeypatch.setenv("AGENTFLOW_RATE_LIMIT_READ", text)
    with pytest.raises(SettingsError, match="300/minute"):
        load_settings()


def test_the_endpoints_that_are_counted_apart_exist(auth_web):
    assert {*_LOGINS, _HOOK} <= auth_web.app.view_functions.keys()


def test_made_up_tokens_of_webhooks_are_wrong_credentials(limited):
    web = limited(rate_limit_refused="2/minute", rate_limit_hook="1/minute")
    answers = [web.call("POST", f"/hooks/whk_{n}") for n in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    keys = web.app.extensions["agentflow.ratelimits"]._here.storage.storage
    assert not [key for key in keys if "hook" in key], "nothing is kept of what anybody can make up"


def test_all_addresses_of_an_ipv6_network_are_one(limited):
    web = limited(rate_limit_login="2/minute")
    near = [f"2001:db8:1:2:{n}::1" for n in range(3)]
    answers = [web.login("x@example.org", environ_base={"REMOTE_ADDR": address}) for address in near]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert web.login(ADA, environ_base={"REMOTE_ADDR": "2001:db8:1:3::1"}).status_code == 200

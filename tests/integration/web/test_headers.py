"""What every answer carries: headers that protect browsers, request ids; and health, metrics, the status page."""

from __future__ import annotations

import pytest
from flask import request

from agentflow import correlation
from agentflow.settings import Settings
from tests.web_kit import WebKit
from webserver.app import create_app
from webserver.headers import DATA_POLICY
from webserver.wsgi import behind_proxies


@pytest.fixture
def make_web(engine, tmp_path):
    """An app with other settings."""
    made = []

    def make(**settings):
        made.append(WebKit(engine, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


class TestHeaders:
    @pytest.mark.parametrize("path", ["/healthz", "/api/v1/workflows", "/api/v1/nowhere", "/", "/api/docs", "/login"])
    def test_every_answer_protects_the_browser(self, web, path) -> None:
        headers = web.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in headers

    def test_data_is_shown_by_a_browser_without_running_anything_and_kept_by_no_cache(self, web) -> None:
        headers = web.client.get("/api/v1/nowhere").headers
        assert headers["Content-Security-Policy"] == DATA_POLICY
        assert headers["Cache-Control"] == "no-store"

    def test_transport_security_only_where_there_is_some(self, web) -> None:
        assert "Strict-Transport-Security" not in web.client.get("/healthz").headers
        assert "Strict-Transport-Security" in web.client.get("/healthz", base_url="https://x.example").headers


class TestOrigins:
    @pytest.fixture
    def shared(self, make_web):
        return make_web(cors_origins="https://pages.example, https://other.example/").client

    def test_none_are_allowed_by_default(self, web) -> None:
        answer = web.client.get("/healthz", headers={"Origin": "https://pages.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers

    @pytest.mark.parametrize("origin", ["https://pages.example", "https://other.example"])
    def test_named_ones_may_read_and_ask_beforehand(self, shared, origin) -> None:
        answer = shared.get("/healthz", headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        asked = shared.options("/api/v1/workflows", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 204
        assert "POST" in asked.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]

    @pytest.mark.parametrize("origin", ["https://evil.example", "https://pages.example.evil.example", "null"])
    def test_others_may_not(self, shared, origin) -> None:
        asked = shared.options("/healthz", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert "Access-Control-Allow-Origin" not in asked.headers
        assert "Access-Control-Allow-Methods" not in asked.headers
        assert "Origin" in shared.get("/healthz").headers["Vary"]


class TestRequestIds:
    def test_one_that_is_given_comes_back(self, web) -> None:
        answer = web.client.get("/healthz", headers={"X-Request-Id": "abc-123_4.5:6"})
        assert answer.headers["X-Request-Id"] == "abc-123_4.5:6"
        assert correlation.current() is None  # what this thread does next is not for that request

    @pytest.mark.parametrize("given", ["", "short", "x" * 129, "with blank", "a;b" * 10, "ümlaut-ümlaut"])
    def test_one_that_is_not_sane_is_replaced(self, web, given) -> None:
        made = web.client.get("/healthz", headers={"X-Request-Id": given.encode().decode("latin-1")}).headers[
            "X-Request-Id"
        ]
        assert made != given
        assert correlation.accepted(made) == made

    def test_each_request_has_its_own(self, web) -> None:
        assert web.client.get("/healthz").headers["X-Request-Id"] != web.client.get("/healthz").headers["X-Request-Id"]


class TestProxies:
    @pytest.mark.parametrize(("count", "address", "scheme"), [(0, "127.0.0.1", "http"), (1, "9.9.9.9", "https")])
    def test_headers_of_proxies_are_believed_only_when_there_are_some(self, make_web, count, address, scheme) -> None:
        web = make_web(trusted_proxies=count)
        seen = []
        web.app.before_request(lambda: seen.append((request.remote_addr, request.scheme)))
        behind_proxies(web.app, web.settings)
        web.client.get("/healthz", headers={"X-Forwarded-For": "6.6.6.6, 9.9.9.9", "X-Forwarded-Proto": "https"})
        assert seen == [(address, scheme)]


class TestHealth:
    def test_alive_asks_nobody(self, web) -> None:
        web.engine.dispose()
        assert web.client.get("/healthz").get_json() == {"status": "alive"}

    def test_not_ready_without_a_scheduler(self, web) -> None:
        answer = web.client.get("/readyz")
        assert answer.status_code == 503
        checks = {check["name"]: check["ok"] for check in answer.get_json()["checks"]}
        assert checks == {"database": True, "migrations": True, "scheduler": False}

    def test_without_a_database_it_lives_and_says_so_to_everybody(self, tmp_path) -> None:
        settings = Settings(home=tmp_path, secret_key="k" * 40)
        client = create_app(settings, url="postgresql+psycopg://nobody@127.0.0.1:1/nothing").test_client()
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.get_json()["checks"]) == (
            503, [{"name": "database", "ok": False, "detail": "cannot be reached"}]
        )  # fmt: skip
        asked = client.get("/api/v1/runs", headers={"X-API-Key": "af_x"})
        login = client.post("/api/v1/auth/login", json={"email": "ada@example.org", "password": "x" * 12})
        for refused in (asked, login):
            assert (refused.status_code, refused.get_json()["type"]) == (503, "urn:agentflow:problem:unavailable")
            assert "127.0.0.1" not in refused.get_data(as_text=True)
        assert "is not ready" in client.get("/").get_data(as_text=True)

    def test_the_page_says_what_is_wrong(self, web) -> None:
        answer = web.client.get("/")
        assert answer.status_code == 200
        text = answer.get_data(as_text=True)
        assert "is not ready" in text
        assert "0 alive" in text
        assert 'http-equiv="refresh"' in text  # until it is

    def test_metrics_count_requests_by_endpoint_not_by_path(self, web) -> None:
        web.client.get("/healthz")
        web.client.get("/nowhere-12345")
        text = web.client.get("/metrics").get_data(as_text=True)
        assert 'agentflow_web_requests_total{endpoint="health.healthz",method="GET",status="200"}' in text
        assert 'endpoint="unknown"' in text
        assert "12345" not in text

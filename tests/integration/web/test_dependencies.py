"""What the system leans on: state, latency, since when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.live_kit import until
from tests.redis_kit import RedisServer
from webserver.ops import dependencies
from webserver.ops.dependencies import Dependencies
from webserver.shared.link import RedisAwayError, RedisLink


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 30, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(dependencies, "CACHED", -1.0)


def test_since_when_it_is_as_it_is():
    broken = [False]

    def probe():
        if broken[0]:
            raise ConnectionError("10.0.0.7 refused")

    found = Dependencies({"database": probe, "redis": None}, now=Clock())

    def look():
        database, redis = found.look()
        assert (redis["state"], redis["latency_ms"], redis["since"]) == ("off", None, "2026-11-30T00:02:00.000000Z")
        return database["state"], database["since"][14:16], database["detail"]

    assert look() == ("up", "01", None)
    assert look() == ("up", "01", None)
    broken[0] = True
    assert look() == ("down", "03", "ConnectionError")  # the address is for the log only
    assert look() == ("down", "03", "ConnectionError")
    broken[0] = False
    assert look() == ("up", "04", None)


def test_answers_are_kept_for_a_moment(monkeypatch):
    monkeypatch.setattr(dependencies, "CACHED", 60.0)
    asked = []
    found = Dependencies({"database": lambda: asked.append(1)})
    found.look()
    found.look()
    assert len(asked) == 1


def test_over_http(web):
    items = {item["name"]: item for item in web.get("/system/dependencies")["items"]}
    assert {name: item["state"] for name, item in items.items()} == {
        "database": "up",
        "object_store": "up",
        "redis": "off",
        "mail": "off",
    }
    assert items["database"]["latency_ms"] > 0


def test_a_redis_that_does_not_answer(engine, tmp_path):
    from agentflow.settings import Settings

    settings = Settings(home=tmp_path, redis_url="redis://127.0.0.1:1/0")
    link = RedisLink(settings.redis_url)
    states = {item["name"]: item["state"] for item in dependencies.dependencies_of(settings, engine, link).look()}
    assert states["redis"] == "down"


def test_a_redis_that_goes_and_comes_back(engine, tmp_path, redis_server):
    from agentflow.settings import Settings

    settings = Settings(home=tmp_path, redis_url=redis_server.url)
    found = dependencies.dependencies_of(settings, engine, RedisLink(settings.redis_url))

    def look():
        return next(item for item in found.look() if item["name"] == "redis")

    up = look()
    assert (up["state"], up["detail"]) == ("up", None)
    assert up["latency_ms"] > 0
    redis_server.kill()
    down = look()
    assert (down["state"], down["latency_ms"], down["detail"]) == ("down", None, "ConnectionError")
    assert down["since"] > up["since"]
    assert look()["since"] == down["since"]
    redis_server.start()
    back = look()
    assert back["state"] == "up"
    assert back["since"] > down["since"]


def test_a_redis_that_answers_and_takes_nothing(engine, tmp_path):
    from agentflow.settings import Settings

    full = RedisServer(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    full.start()
    link = RedisLink(full.url)
    found = dependencies.dependencies_of(Settings(home=tmp_path, redis_url=full.url), engine, link)

    def look():
        return next((item["state"], item["detail"]) for item in found.look() if item["name"] == "redis")

    try:
        with pytest.raises(RedisAwayError):
            link.ask(lambda redis: redis.incr("asked"))
        assert look() == ("down", "RedisAwayError")
        with full.client() as client:
            client.config_set("maxmemory", 0)
        until(lambda: not link.away, "it takes something again")
        assert look() == ("up", None)
    finally:
        link.close()
        full.kill()

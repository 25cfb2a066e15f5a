"""The way to Redis: one failure and nobody waits for it any more, until it is back."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from redis import ResponseError

from tests.live_kit import ROOT, until
from tests.redis_kit import RedisServer
from webserver.shared.link import SLOW, SLOW_IN_A_ROW, RedisAwayError, RedisLink


@pytest.fixture
def link(redis_server):
    link = RedisLink(redis_server.url)
    yield link
    link.close()


def ask(link):
    return link.ask(lambda redis: redis.incr("asked"))


def test_what_is_asked_is_answered(link):
    assert [ask(link), ask(link)] == [1, 2]
    assert not link.away


def test_a_redis_that_was_killed_is_done_without_until_it_is_back(link, redis_server):
    ask(link)
    redis_server.kill()
    with pytest.raises(RedisAwayError):
        ask(link)
    assert link.away
    redis_server.start()
    until(lambda: not link.away, "Redis is found again")
    assert ask(link) == 1


def test_connections_that_broke_meanwhile_are_no_failure(link, redis_server):
    ask(link)
    redis_server.kill()
    redis_server.start()
    assert ask(link) == 1
    assert not link.away


def test_a_redis_that_says_nothing_is_waited_for_once(link, redis_server):
    ask(link)
    redis_server.freeze()
    try:
        with pytest.raises(RedisAwayError):
            ask(link)
        went = []
        for _ in range(100):
            with pytest.raises(RedisAwayError):
                link.ask(went.append)
        assert went == [], "nobody goes there any more"
    finally:
        redis_server.thaw()
    until(lambda: not link.away, "Redis is found again")
    ask(link)


class Watch:
    """A clock that moves with every look at it."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_redis_that_is_slow_again_and_again_is_done_without(redis_server, caplog, monkeypatch):
    monkeypatch.setattr("webserver.shared.link.SLOW", SLOW)
    watch = Watch()
    link = RedisLink(redis_server.url, clock=watch)
    try:
        for step in [2 * SLOW] * (SLOW_IN_A_ROW - 1) + [0.0] + [2 * SLOW] * (SLOW_IN_A_ROW - 1):
            watch.step = step
            ask(link)
        assert not link.away, "a fast answer in between, and it may go on"
        assert ask(link) == 2 * SLOW_IN_A_ROW, "what it said late is still an answer"
        assert link.away
        assert "took more than" in caplog.records[-1].error
        with pytest.raises(RedisAwayError):
            ask(link)
        before = watch.now
        until(lambda: watch.now >= before + 6 * SLOW, "it was tried again")
        assert link.away, "still slow"
        watch.step = 0.0
        until(lambda: not link.away, "it is fast again")
        ask(link)
    finally:
        link.close()


def test_a_redis_that_is_full_is_away(tmp_path):
    full = RedisServer(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    full.start()
    link = RedisLink(full.url)
    try:
        with pytest.raises(RedisAwayError):
            ask(link)
        with full.client() as client:
            client.config_set("maxmemory", 0)
        until(lambda: not link.away, "it takes something again")
        assert ask(link) == 1
    finally:
        link.close()
        full.kill()


#: Under gevent's patches: a Redis whose first connection says one byte after the other and comes to no end.
DRIPPING = """
from gevent import monkey; monkey.patch_all()
import gevent, socket, time
from gevent.server import StreamServer
from webserver.shared import link as module
from webserver.shared.link import RedisAwayError, RedisLink

module.TIMEOUT, module.SLOW = 1.0, 10.0  # the machine may be crowded
connections = []

def talk(peer, _address):
    connections.append(peer)
    first = len(connections) == 1
    while data := peer.recv(65536):
        peer.sendall(b"+" if first else b"+OK\\r\\n" * data.count(b"*"))
        while first:
            gevent.sleep(0.01)
            peer.sendall(b"x")

server = StreamServer(("127.0.0.1", 0), talk)
server.start()
link = RedisLink(f"redis://127.0.0.1:{server.server_port}/0?protocol=2")
try:
    link.ask(lambda redis: redis.ping())
except RedisAwayError:
    print("away", link.away)
while link.away:
    gevent.sleep(0.01)
print("again", link.ask(lambda redis: redis.set("a", 1)))

resolve = socket.getaddrinfo
socket.getaddrinfo = lambda *of, **more: gevent.sleep(3600)
link.pool.disconnect()
try:
    link.ask(lambda redis: redis.ping())
except RedisAwayError:
    print("nameless", link.away)
socket.getaddrinfo = resolve
while link.away:
    gevent.sleep(0.01)
started = time.monotonic()
while time.monotonic() < started + 1.2:  # this process is busy, not Redis
    pass
print("again", link.ask(lambda redis: redis.set("a", 1)))
"""


def test_gevent_s_requests_wait_for_the_whole_no_longer_than_for_a_step():
    done = subprocess.run(
        [sys.executable, "-c", DRIPPING], capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["away True", "again True", "nameless True", "again True"], done.stderr


def test_refusals_of_many_at_once_start_one_search(link):
    def refuse(_redis):
        raise ResponseError("no")

    def fail():
        with pytest.raises(RedisAwayError):
            link.ask(refuse)

    before = threading.active_count()
    callers = [threading.Thread(target=fail) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sum(thread.name == "redis-again" for thread in threading.enumerate()) <= 1
    until(lambda: not link.away, "Redis is found again")
    until(lambda: threading.active_count() <= before, "the search ends")


def test_a_link_that_was_closed_searches_no_more(link, redis_server):
    redis_server.kill()
    with pytest.raises(RedisAwayError):
        ask(link)
    link.close()
    until(lambda: all(thread.name != "redis-again" for thread in threading.enumerate()), "the search ends")

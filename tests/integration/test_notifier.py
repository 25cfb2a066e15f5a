"""The listener: heard at once, own echo ignored, reconnects, stops without waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from agentflow.postgres import libpq_url
from scheduler.notifier import Notifier


class Bell:
    """Counts calls, and lets the test wait for them."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def __call__(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def rung(self, count: int, seconds: float = 10) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.count >= count, seconds)


@pytest.fixture
def sender(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def listen(database_url: str) -> Iterator:
    started: list[Notifier] = []

    def listen(*arguments: object) -> Notifier:
        notifier = Notifier(database_url, *arguments)
        notifier.start()
        started.append(notifier)
        return notifier

    yield listen
    for notifier in started:
        notifier.stop()


def test_it_calls_once_when_connected_then_for_each_notification_and_what_may_wait_later(listen, sender) -> None:
    urgent, later = Bell(), Bell()
    listen([urgent], [later])
    assert urgent.rung(1)
    assert later.rung(1)
    sender.execute("NOTIFY agentflow_ready")
    assert urgent.rung(2)
    assert later.rung(2)
    assert urgent.count == 2


def test_its_own_echo_is_ignored(listen, sender) -> None:
    own, urgent = sender.info.backend_pid, Bell()
    listen([urgent], [], lambda pid: pid == own)
    assert urgent.rung(1)
    sender.execute("NOTIFY agentflow_ready")
    with psycopg.connect(sender.info.dsn, password=sender.info.password, autocommit=True) as other:
        other.execute("NOTIFY agentflow_ready")
    assert urgent.rung(2)
    assert urgent.count == 2


def test_it_connects_again_and_calls_since_something_may_have_been_missed(listen, sender) -> None:
    urgent = Bell()
    listen([urgent])
    assert urgent.rung(1)
    sender.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentflow-listen'")
    assert urgent.rung(2)
    sender.execute("NOTIFY agentflow_ready")
    assert urgent.rung(3)


def test_it_stops_at_once_and_twice(listen) -> None:
    urgent = Bell()
    notifier = listen([urgent])
    assert urgent.rung(1)
    began = time.monotonic()
    notifier.stop()
    notifier.stop()
    assert time.monotonic() - began < 0.5

"""Answers to sockets: none for who takes none, one for everybody else, also when there is no database."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentflow.access import Principal, Role
from webserver.live import clients as module
from webserver.live.clients import QUEUE_MAX, Clients
from webserver.live.joining import LeaveMessage
from webserver.live.messages import Messages

SID = "socket"
ERRORS = [PoolTimeout("QueuePool limit"), OperationalError("SELECT 1", {}, Exception("gone"))]


@pytest.fixture
def waiting():
    """What waits for the socket."""
    return queue.Queue()


@pytest.fixture
def messages(waiting):
    """Of one socket that has been let in."""
    eio = SimpleNamespace(sid="connection", queue=waiting)
    manager = SimpleNamespace(eio_sid_from_sid=lambda sid, namespace: eio.sid)
    clients = Clients(SimpleNamespace(eio=SimpleNamespace(sockets={eio.sid: eio}), manager=manager))
    clients.add(SID, {}, (), Principal("user", "ada", "user:ada", 1, "default", Role.VIEWER))
    yield Messages(clients, lambda: SID)
    clients.remove(SID)


def fill(waiting) -> None:
    for number in range(QUEUE_MAX):
        waiting.put(number)


def test_who_takes_no_answers_is_given_none_until_they_do(messages, waiting, monkeypatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.01)
    done = []
    leave = messages.answering(LeaveMessage, lambda client, message: done.append(message) or {})
    fill(waiting)
    assert [leave({"room": "workspace"}), messages.unknown("x", SID), done] == [None, None, []]
    waiting.get()
    assert leave({"room": "workspace"}) == {"ok": True}


def test_who_is_only_ahead_of_the_answers_is_waited_for(messages, waiting, monkeypatch) -> None:
    monkeypatch.setattr(module, "GRACE", 3600.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda pause: waiting.get(), monotonic=lambda: 0.0))
    fill(waiting)
    assert messages.answering(LeaveMessage, lambda client, message: {})({"room": "workspace"}) == {"ok": True}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_without_a_connection_to_the_database_there_is_an_answer(messages, error) -> None:
    def handler(client, message):
        raise error

    answer = messages.answering(LeaveMessage, handler)({"room": "workspace"})
    assert (answer["ok"], answer["error"]["status"]) == (False, 503)

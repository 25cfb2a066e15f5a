"""The client of the API: what it sends, when it sends it again, and what becomes of answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from agentflow import client as package
from agentflow.client import Application, Client
from agentflow.client.problems import error_of
from agentflow.client.retries import Failure, Outcome, pause, retry_after
from agentflow.client.runs import last_step
from agentflow.errors import (
    AgentFlowError,
    ApiError,
    ApiUnreachable,
    Conflict,
    DatabaseUnreachable,
    NotFound,
    OwnedByFile,
    ParamError,
    Problem,
    SettingsError,
    SpecError,
    StaleVersion,
    UsageError,
)

PREFIX = "urn:agentflow:problem:"


class Server:
    """Answers what it was told to, one after the other; the last one for ever. Keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        return httpx.Response(status, json=body, headers=headers[0] if headers else None)


def client_of(server: Server, **keys: Any) -> Client:
    made = Client("http://flow.test", transport=httpx.MockTransport(server), **keys)
    now = [0.0]

    def sleep(seconds: float) -> None:
        server.slept.append(seconds)
        now[0] += seconds

    made._http._sleep, made._http._clock = sleep, lambda: now[0]
    return made


RUN = {"id": "r1", "event_seq": 3, "state": "running"}


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_credentials_and_workspace_go_with_every_request():
    server = Server((200, RUN))
    client_of(server, api_key="k1", workspace="side").runs.get("r1")
    (request,) = server.asked
    assert request.headers["X-API-Key"] == "k1"
    assert request.headers["X-Workspace"] == "side"
    client_of(server, token="t1").runs.get("r1")
    assert server.asked[1].headers["Authorization"] == "Bearer t1"
    assert "X-Workspace" not in server.asked[1].headers


def test_it_keeps_credentials_to_itself():
    client = client_of(Server((200, RUN)), api_key="hush-hush", workspace="side")
    assert repr(client) == "Client('http://flow.test', workspace='side')"
    assert "hush" not in repr(client._http) + repr(client.runs)


@pytest.mark.parametrize("address", ["", "flow.test", "ftp://flow.test"])
def test_the_address_must_be_one(address):
    with pytest.raises(SettingsError):
        Client(address)


def test_one_credential_is_enough():
    with pytest.raises(SettingsError):
        Client("http://flow.test", api_key="a", token="b")


def test_a_key_that_no_header_can_hold_is_said_to_be_one():
    with pytest.raises(SettingsError, match="characters"):
        Client("http://flow.test", api_key="schlüssel")


def test_the_address_of_the_api_itself_will_do():
    server = Server((200, RUN))
    Client("http://flow.test/proxy/api/v1", transport=httpx.MockTransport(server)).runs.get("r1")
    assert str(server.asked[0].url) == "http://flow.test/proxy/api/v1/runs/r1"


def test_addresses_of_nodes_are_encoded():
    server = Server((200, {}))
    client_of(server).runs.why("r1", "loop.sub[2].a/b")
    assert server.asked[0].url.raw_path == b"/api/v1/runs/r1/nodes/loop.sub%5B2%5D.a%2Fb/why"


def test_queries_say_what_was_given():
    server = Server((200, {"items": [], "next_cursor": None}))
    client_of(server).runs.page(states=["failed", "success"], hidden=True, workflow="a&b")
    query = server.asked[0].url.params
    assert query.get_list("state") == ["failed", "success"]
    assert (query["hidden"], query["workflow"], query["limit"]) == ("true", "a&b", "25")
    assert "cursor" not in query


def test_each_new_run_has_a_key_of_its_own():
    server = Server((201, RUN))
    client = client_of(server)
    client.runs.create("flow", {"a": 1}, note="n")
    client.runs.create("flow")
    client.runs.create("flow", idempotency_key="mine")
    keys = [request.headers["Idempotency-Key"] for request in server.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"
    assert json.loads(server.asked[0].content) == {"params": {"a": 1}, "note": "n"}


def test_apply_sends_code_with_its_hash():
    server = Server((200, {"items": []}))
    client_of(server).workflows.apply([Application({"name": "a"}, "a.py", "f" * 64)], {"f" * 64: b"\x00code"})
    body = json.loads(server.asked[0].content)
    assert body["workflows"] == [{"spec": {"name": "a"}, "source_path": "a.py", "bundle": "f" * 64}]
    assert base64.b64decode(body["bundles"]["f" * 64]) == b"\x00code"


def test_put_with_a_base_asks_for_it():
    server = Server((200, {}))
    client_of(server).workflows.put({"name": "a"}, base=3)
    assert server.asked[0].headers["If-Match"] == '"3"'


@pytest.mark.parametrize("before", [True, False])
def test_pausing_tells_whether_it_changed(before):
    server = Server((200, {"paused": before}))
    assert client_of(server).workflows.pause("a") == {"name": "a", "changed": not before}
    assert [request.method for request in server.asked] == (["GET"] if before else ["GET", "PATCH"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (None, (None, None)),
        ("fetch", ("fetch", None)),
        ("fetch[3]", ("fetch", 3)),
        ("loop.sub[2]", (None, None)),
        ("loop[1].sub[2]", (None, None)),
        ("loop.sub[2].fetch", ("fetch", None)),
        ("loop.sub[2].a-b[10]", ("a-b", 10)),
        ("sub", ("sub", None)),
    ],
)
def test_the_last_step_of_an_address(address, expected):
    assert last_step(address) == expected


# -- pages -------------------------------------------------------------------------------------------------------------


def pages(*sizes: int) -> list[Any]:
    following = [f"c{number}" for number in range(1, len(sizes))] + [None]
    return [(200, {"items": [RUN] * size, "next_cursor": to}) for size, to in zip(sizes, following, strict=True)]


def test_iteration_reads_page_after_page():
    server = Server(*pages(200, 200, 5))
    assert len(list(client_of(server).runs.list())) == 405
    assert [request.url.params.get("cursor") for request in server.asked] == [None, "c1", "c2"]


def test_iteration_reads_no_page_before_it_is_needed():
    server = Server(*pages(200, 200))
    next(client_of(server).runs.list())
    assert len(server.asked) == 1


def test_a_large_page_is_put_together():
    server = Server(*pages(200, 100, 7))
    found = client_of(server).runs.page(limit=300)
    assert (len(found["items"]), found["next_cursor"]) == (300, "c2")
    assert [request.url.params["limit"] for request in server.asked] == ["200", "100"]


# -- errors ------------------------------------------------------------------------------------------------------------

PROBLEMS = [
    NotFound("There is no run x.", hint="look again"),
    Conflict("taken"),
    OwnedByFile("a file's"),
    ParamError([Problem("is required", path="city", hint="say one")]),
    SpecError([Problem("unknown key", path="nodes.a", hint="look"), Problem("cycle")]),
    StaleVersion("flow", base=1, current=4, changes={"identical": False}),
    UsageError("not a cursor"),
    DatabaseUnreachable("gone"),
]


@pytest.mark.parametrize("error", PROBLEMS, ids=lambda error: error.word)
def test_errors_are_what_they_were(error: AgentFlowError):
    document = error.as_document()
    body = json.dumps(document | {"type": PREFIX + document["type"], "status": 400}).encode()
    back = error_of(400, body, asked="http://flow.test/x")
    assert type(back) is type(error)
    assert back.as_document() == document
    assert back.exit_code == error.exit_code


@pytest.mark.parametrize(
    ("status", "word", "kind", "code"),
    [
        (401, "unauthenticated", ApiError, 1),
        (403, "forbidden", ApiError, 1),
        (413, "too-large", ApiError, 1),
        (422, "invalid-request", UsageError, 2),
        (422, "idempotency-key-reused", ApiError, 1),
        (429, "rate-limited", ApiError, 1),
        (500, "internal", ApiError, 1),
        (503, "unavailable", ApiUnreachable, 3),
    ],
)
def test_words_of_the_web(status, word, kind, code):
    body = json.dumps({"type": PREFIX + word, "title": "T.", "detail": "d", "status": status}).encode()
    error = error_of(status, body, asked="http://flow.test/x")
    assert (type(error), error.exit_code, error.message) == (kind, code, "d")
    if kind is ApiError:
        assert error.as_document()["type"] == word
        assert error.as_document()["title"] == "T."


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"<html>nginx</html>", ApiError),
        (502, b"<html>nginx</html>", ApiUnreachable),
        (404, b'{"type": "about:blank"}', ApiError),
        (404, b"[1]", ApiError),
        (500, b"", ApiUnreachable),
    ],
)
def test_who_is_no_agentflow(status, body, kind):
    error = error_of(status, body, asked="http://flow.test/x")
    assert type(error) is kind
    assert "http://flow.test/x" in error.message
    assert error.hint


def test_credentials_follow_no_redirect():
    server = Server((302, None, {"Location": "https://evil.test/"}))
    with pytest.raises(ApiError, match="moved"):
        client_of(server, api_key="k").runs.get("r1")
    assert len(server.asked) == 1


# -- again -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "repeatable", "asked", "again"),
    [
        (Outcome.NOT_SENT, False, None, True),
        (Outcome.NOT_SENT, True, None, True),
        (Outcome.NO_ANSWER, True, None, True),
        (Outcome.NO_ANSWER, False, None, False),
        (Outcome.AWAY, True, None, True),
        (Outcome.AWAY, False, None, False),
        (Outcome.AWAY, False, 1.0, False),
        (Outcome.BUSY, False, 7.0, True),
        (Outcome.BUSY, True, 61.0, False),
    ],
)
def test_what_is_sent_again(outcome, repeatable, asked, again):
    wait = pause(Failure(outcome, repeatable, 1, 0.0, asked), patience=3.0)
    assert (wait is not None) is again
    if again and asked is not None:
        assert wait == asked


def test_pauses_grow_and_end():
    waits, elapsed = [], 0.0
    while (wait := pause(Failure(Outcome.NOT_SENT, True, len(waits) + 1, elapsed), patience=10.0)) is not None:
        waits.append(wait)
        elapsed += wait
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert max(waits) == 2.0
    assert 8.0 < elapsed <= 10.0


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("7", 7.0), (" 7 ", 7.0), ("Wed, 21 Oct", None), ("-1", None)]
)
def test_retry_after(header, seconds):
    assert retry_after(header) == seconds


def test_a_read_is_repeated_until_it_is_answered():
    server = Server(httpx.ReadTimeout("late"), (503, {}, {"Retry-After": "5"}), (200, RUN))
    assert client_of(server).runs.get("r1") == RUN
    assert server.slept == [0.2, 5.0]


def test_a_change_is_not_made_twice():
    server = Server(httpx.ReadTimeout("late"), (200, {}))
    with pytest.raises(ApiUnreachable, match="late"):
        client_of(server).runs.cancel("r1")
    assert len(server.asked) == 1


def test_a_run_is_asked_for_again_with_the_same_key():
    server = Server(httpx.ReadTimeout("late"), (201, RUN))
    assert client_of(server).runs.create("flow") == RUN
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1
    assert len(server.asked) == 2


def test_too_many_requests_are_waited_for():
    server = Server((429, {}, {"Retry-After": "9"}), (200, {}))
    client_of(server).runs.cancel("r1")
    assert server.slept == [9.0]


def test_nobody_there_is_told_after_the_patience():
    server = Server(httpx.ConnectError("refused"))
    with pytest.raises(ApiUnreachable, match="refused"):
        client_of(server).runs.get("r1")
    assert 2.0 < sum(server.slept) <= 3.0


def test_who_follows_a_run_waits_longer():
    server = Server(httpx.ConnectError("refused"))
    client = client_of(server)
    client.wait_longer(60.0)
    with pytest.raises(ApiUnreachable):
        client.runs.get("r1")
    assert 55.0 < sum(server.slept) <= 60.0


def test_output_that_breaks_off_is_told():
    def broken():
        yield b"[1, "
        raise httpx.ReadError("cut")

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=broken()))
    with pytest.raises(ApiUnreachable, match="broke off"):
        list(Client("http://flow.test", transport=transport).runs.output("r1", "a"))


def test_it_needs_the_base_package_only():
    import ast
    from pathlib import Path

    names = set()
    for file in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {name.name for name in node.names}
    ours = {name for name in names if name.startswith("agentflow")}
    assert {name for name in ours if not name.startswith("agentflow.client")} == {"agentflow", "agentflow.errors"}
    foreign = names - ours
    assert {name for name in foreign if name.split(".")[0] in {"sqlalchemy", "typer", "psycopg", "pydantic"}} == set()

"""Every message of a socket about every kind of room, sent by everybody: who is answered what, and who hears of changes.

A new message, field of a message or kind of room fails here until it has a row. The server is the one of production, with
its real way to recognise people; the client says what it likes, also what a decent one would not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, get_args, get_type_hints

import pytest
import websocket
from flask import request
from flask_socketio import ConnectionRefusedError as Refused
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agentflow.access import Role, api_keys, sessions, users, workspaces
from agentflow.clock import utc_now
from agentflow.db.notify import notify_live, notify_workflows
from tests.auth_kit import OTHER, SECRET, AuthKit, everybody
from tests.engine_kit import Kit
from tests.live_kit import PATIENCE, Server, until
from webserver.auth.jwt import LIFETIME
from webserver.live.allowance import BURST
from webserver.live.guard import PAUSE_MAX
from webserver.live.joining import JoinMessage, LeaveMessage
from webserver.live.rooms import RoomName

VIEWER = Role.VIEWER.value

#: Messages with a model, by kind of room and field beside the room: the least role that is answered with `ok`.
MATRIX = {
    ("join", "run", ""): VIEWER,
    ("join", "run", "after"): VIEWER,
    ("join", "run", "known"): VIEWER,
    ("join", "workflow", ""): VIEWER,
    ("join", "workflow", "after"): VIEWER,
    ("join", "workflow", "known"): VIEWER,
    ("join", "workspace", ""): VIEWER,
    ("join", "workspace", "after"): VIEWER,
    ("join", "workspace", "known"): VIEWER,
    ("join", "logs", ""): VIEWER,
    ("join", "logs", "after"): VIEWER,
    ("join", "logs", "known"): VIEWER,
    ("leave", "run", ""): VIEWER,
    ("leave", "workflow", ""): VIEWER,
    ("leave", "workspace", ""): VIEWER,
    ("leave", "logs", ""): VIEWER,
}
MODELS = {"join": JoinMessage, "leave": LeaveMessage}
#: What Socket.IO itself calls; a client may send messages of these names too.
RESERVED = {"connect", "disconnect"}
#: Events by kind of room.
TELLS = {"run": {"run"}, "workflow": {"runs", "workflows"}, "workspace": {"runs", "workflows"}, "logs": {"logs"}}

#: Callers, and the status with which their connection is refused; None: they are let in.
CALLERS = {
    **dict.fromkeys((*(role.value for role in Role), "instance-admin", "key that reads", "key that edits")),
    "right CSRF": None,
    "wrong CSRF": None,  # connecting and listening change nothing; pages of other origins are refused before
    "anonymous": 401,
    "expired token": 401,
    "revoked key": 401,
    "other workspace": 404,
    "key of another workspace": 404,
    "other workspace by default": 403,
}
LET_IN = [caller for caller, status in CALLERS.items() if status is None]
REFUSED = [caller for caller, status in CALLERS.items() if status is not None]

_MOVE = text("UPDATE run SET event_seq = event_seq + 1 WHERE id = :run RETURNING event_seq")
_EVENT = text("""
INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, attempt, state)
VALUES (:run, :seq, clock_timestamp(), 'node', 0, -1, 1, 'ready')
""")
_CHANGE = text("UPDATE workflow SET updated_at = clock_timestamp() WHERE name = 'flow' AND workspace_id = :workspace")
_LINE = text("""
INSERT INTO log_chunk (run_id, node_no, map_index, attempt, chunk_no, first_seq, lines, truncated_bytes, data)
VALUES (:run, 0, -1, 1, :no, :no, 1, 0, :data)
""")


class Wire:
    """A socket that keeps all it is told, and hangs up only when asked to."""

    def __init__(self, server: Server, headers: dict[str, str], auth: dict[str, str] | None = None) -> None:
        url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
        header = [f"{name}: {value}" for name, value in headers.items()]
        self.socket = websocket.create_connection(url, header=header, timeout=3 * PATIENCE)
        self.accepted = self.ended = False
        self.sid = ""
        self.refusals: list[dict[str, Any]] = []
        self.answers: dict[int, Any] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._auth = "" if auth is None else json.dumps(auth)
        self._ids = itertools.count(1)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            while message := self.socket.recv():
                self._take(str(message))
        self.ended = True

    def _take(self, message: str) -> None:
        if message == "2":
            self.socket.send("3")
        elif message.startswith("40"):
            self.accepted, self.sid = True, json.loads(message[2:])["sid"]
        elif message.startswith("44"):
            self.refusals.append(json.loads(message[2:])["data"])
        elif message.startswith("43"):
            number, bracket, answer = message[2:].partition("[")
            self.answers[int(number)] = json.loads(bracket + answer)
        elif message.startswith("42"):
            event, payload = json.loads(message[2:])
            self.told.append((event, payload))

    def connect(self) -> Wire:
        """Say who it is, and wait for the word."""
        before = len(self.refusals)
        self.socket.send("40" + self._auth)
        until(lambda: self.accepted or len(self.refusals) > before, "an answer to the connection")
        return self

    def say(self, event: str, *payload: Any) -> int:
        """Send a message; its number."""
        number = next(self._ids)
        self.socket.send(f"42{number}{json.dumps([event, *payload])}")
        return number

    def ask(self, event: str, *payload: Any) -> Any:
        """Send a message and wait for its answer."""
        number = self.say(event, *payload)
        until(lambda: number in self.answers, f"an answer to {event}")
        return next(iter(self.answers[number]), None)

    def heard(self, room: str, since: int = 0) -> list[str]:
        """The events of a room from that place on."""
        return [event for event, payload in self.told[since:] if payload.get("room") == room]

    def close(self) -> None:
        self.socket.shutdown()


@dataclass
class Scene:
    """A run that is watched, and who watches."""

    server: Server
    web: AuthKit
    run: uuid.UUID
    people: dict[str, Any]
    wires: list[Wire] = field(default_factory=list)
    lines: int = 0

    @property
    def rooms(self) -> dict[str, str]:
        """A room of each kind."""
        run = str(self.run)
        return {"run": f"run:{run}", "workflow": "workflow:flow", "workspace": "workspace", "logs": f"logs:{run}/a/1"}

    def message(self, kind: str, name: str) -> dict[str, Any]:
        """A payload about a room with this field."""
        fields = {"": {}, "after": {"after": 0}, "known": {"known": {str(self.run): 0}}}
        return {"room": self.rooms[kind], **fields[name]}

    def wire(self, headers: dict[str, str], **keys: Any) -> Wire:
        self.wires.append(Wire(self.server, headers, **keys))
        return self.wires[-1]

    def member(self) -> Wire:
        """Somebody in all rooms."""
        return self.settled(self.wire(self.people[VIEWER]()).connect())

    def settled(self, wire: Wire) -> Wire:
        """Let it join all rooms, and take what a newcomer is told."""
        for room in self.rooms.values():
            assert wire.ask("join", {"room": room}) == {"ok": True, "room": room}
        return self.hears(wire)

    def move(self) -> None:
        """The run moves on, its attempt says something, and its workflow is changed."""
        self.lines += 1
        with self.web.engine.begin() as connection:
            seq = connection.scalar(_MOVE, {"run": self.run})
            connection.execute(_EVENT, {"run": self.run, "seq": seq})
            data = zlib.compress(json.dumps([self.lines, 0.5, "stdout", "info", "hello"]).encode())
            connection.execute(_LINE, {"run": self.run, "no": self.lines, "data": data})
            workspace = connection.scalar(text("SELECT workspace_id FROM run WHERE id = :run"), {"run": self.run})
            notify_live(connection, workspace, {self.run: seq})
            connection.execute(_CHANGE, {"workspace": workspace})
            notify_workflows(connection, workspace, ["flow"])

    def hears(self, wire: Wire) -> Wire:
        """A change reaches it in every room."""
        since = len(wire.told)
        self.move()
        for kind, room in self.rooms.items():
            until(lambda room=room, kind=kind: TELLS[kind] <= {*wire.heard(room, since)}, f"messages in {room}")
        return wire


@pytest.fixture(scope="module")
def stage(shared_engine, tmp_path_factory):
    """The production's server, a run that waits to go on, and people of all kinds."""
    folder = tmp_path_factory.mktemp("matrix")
    web = AuthKit(shared_engine, folder)
    kit = Kit(shared_engine, folder)
    kit.apply({"a": {}})
    run = uuid.UUID(kit.create())
    kit.starter.work()
    url = shared_engine.url.render_as_string(hide_password=False)
    server = Server(url, folder, app="webserver.wsgi:application()", AGENTFLOW_SECRET_KEY=SECRET)
    server.ready()
    yield Scene(server, web, run, everybody(web))
    server.close()
    kit.close()
    web.close()


@pytest.fixture
def scene(stage):
    """The stage; sockets are closed after each test."""
    yield stage
    for wire in stage.wires:
        wire.close()
    stage.wires.clear()


def test_every_message_field_and_kind_of_room_has_a_row(auth_web, scene) -> None:
    server = auth_web.app.extensions["agentflow.live"]._socketio.server
    assert set(server.handlers) == set(server.namespace_handlers) == {"/"}
    assert set(server.handlers["/"]) == MODELS.keys() | RESERVED
    kinds = set(get_args(get_type_hints(RoomName)["kind"]))
    fields = {
        (event, kind, "" if name == "room" else name)
        for event, model in MODELS.items()
        for kind in kinds
        for name in model.model_fields
    }
    assert fields == MATRIX.keys()
    assert kinds == TELLS.keys() == scene.rooms.keys()
    assert scene.people.keys() == CALLERS.keys()


@pytest.mark.parametrize("caller", LET_IN)
def test_who_is_let_in_is_answered_and_hears_until_leaving(scene, caller) -> None:
    wire = scene.wire(scene.people[caller]())
    before = wire.say("join", {"room": "workspace"})  # nobody yet
    wire.connect()
    assert wire.refusals == []
    answers = {}
    for (event, kind, name), needs in MATRIX.items():
        assert needs == VIEWER, "this test knows no higher role: everybody let in is answered"
        if event == "join":
            answers[kind, name] = wire.ask(event, scene.message(kind, name))
    assert {row: (answer["ok"], answer["room"]) for row, answer in answers.items()} == {
        row: (True, scene.rooms[row[0]]) for row in answers
    }
    assert [run["id"] for run in answers["workflow", "known"]["runs"]] == [str(scene.run)]
    assert before not in wire.answers
    scene.hears(wire)
    for kind, room in scene.rooms.items():
        assert wire.ask("leave", scene.message(kind, "")) == {"ok": True, "room": room}
    witness = scene.member()
    since = len(wire.told)
    scene.hears(witness)
    for message in ({"room": "workspace"}, {"room": "workspace"}):  # who is in no room may leave it
        assert wire.ask("leave", message)["ok"]
    assert wire.told[since:] == []


@pytest.mark.parametrize("caller", REFUSED)
def test_who_is_refused_is_told_why_and_then_nothing(scene, caller) -> None:
    wire = scene.wire(scene.people[caller]())
    for _ in range(2):  # before it has said who it is, and after it was refused
        for event, kind, name in MATRIX:
            wire.say(event, scene.message(kind, name))
        for event in RESERVED:
            wire.say(event)
        wire.connect()
    scene.hears(scene.member())
    wire.connect()  # messages are handled in their order: whatever answer there is came before this one
    assert [refusal["status"] for refusal in wire.refusals] == [CALLERS[caller]] * 3
    assert all(refusal["type"].startswith("urn:agentflow:problem:") for refusal in wire.refusals)
    assert (wire.accepted, wire.answers, wire.told) == (False, {}, [])


def test_in_a_workspace_of_their_own_others_find_no_room_of_this_one(scene) -> None:
    for headers in (scene.web.bearer("stranger@example.org") | {"X-Workspace": OTHER}, scene.web.key(workspace=OTHER)):
        wire = scene.wire(headers).connect()
        for event, kind, name in MATRIX:
            answer = wire.ask(event, scene.message(kind, name))
            if event == "join" and kind != "workspace":
                assert (answer["ok"], answer["error"]["status"]) == (False, 404), kind
            else:  # `workspace` is the one they are in; leaving tells nobody whether there is such a room
                assert answer["ok"]
                assert answer.get("runs", []) == []
        assert wire.ask("join", {"room": "workspace"})["ok"]
        scene.hears(scene.member())
        assert wire.ask("join", {"room": "workspace"})["ok"]  # in their order: what it was told came before
        assert [payload for _, payload in wire.told if payload != {"room": "workspace", "reset": True}] == []


def test_credentials_may_come_with_the_connection_and_win_over_headers(scene) -> None:
    token = scene.people[VIEWER]()["Authorization"].removeprefix("Bearer ")
    key = scene.people["key that reads"]()["X-API-Key"]
    for auth in ({"token": token}, {"api_key": key}, {"token": token, "workspace": "default"}):
        assert scene.wire({"X-Workspace": "default"}, auth=auth).connect().accepted
    for auth in ({"token": "x"}, {"api_key": "af_x"}, {"token": token, "workspace": OTHER}):
        assert not scene.wire(scene.people[VIEWER](), auth=auth).connect().accepted


def test_messages_that_there_are_not_are_answered_so(scene) -> None:
    wire = scene.wire(scene.people[VIEWER]()).connect()
    for name, *sent in (
        ("emit", {"room": "workspace"}),
        ("*", {"room": "workspace"}),
        ("*",),
        ("message", "x"),
        ("join ",),
    ):
        answer = wire.ask(name, *sent)
        assert (answer["ok"], answer["error"]["status"]) == (False, 422)
    scene.hears(scene.member())
    wire.ask("leave", {"room": "workspace"})
    assert wire.told == []


def test_messages_named_like_the_protocol_s_own_change_nobody(scene) -> None:
    """Who is in a room stays who they were: `connect` as a message would give their rooms to other credentials."""
    key = scene.web.new_key("read")
    other = scene.web.key("read", workspace=OTHER)["X-API-Key"]
    wire = scene.settled(scene.wire({"X-API-Key": key["key"]}).connect())
    for name in RESERVED:
        answer = wire.ask(name, {}, {"api_key": other, "workspace": OTHER})
        assert (answer["ok"], answer["error"]["status"]) == (False, 422)
    assert wire.ask("join", {"room": "workflow:flow"})["ok"]
    with scene.web.engine.begin() as connection:
        api_keys.revoke_api_key(connection, key["id"], actor="test", workspace="default")
    until(lambda: "closed" in dict(wire.told), "the end of the socket", PAUSE_MAX + PATIENCE)


def test_who_says_goodbye_needs_another_connection_to_come_back(scene) -> None:
    gone = scene.settled(scene.wire(scene.people[VIEWER]()).connect())
    gone.accepted = False
    gone.socket.send("41")
    with contextlib.suppress(OSError, websocket.WebSocketException):
        gone.socket.send("40")
    until(lambda: gone.ended or gone.accepted, "the end of the connection")
    assert not gone.accepted


@pytest.mark.parametrize("error", [PoolTimeout("QueuePool limit"), OperationalError("SELECT", {}, Exception("gone"))])
def test_who_comes_while_the_database_is_away_is_told_so(auth_web, monkeypatch, error) -> None:
    def recognise(_request) -> None:
        raise error

    live = auth_web.app.extensions["agentflow.live"]
    monkeypatch.setattr(live, "start", lambda: None)
    monkeypatch.setattr(live, "_decide", recognise)
    with auth_web.app.test_request_context():
        request.sid = "newcomer"
        with pytest.raises(Refused) as refused:
            live._connect({"token": "x"})
    assert refused.value.error_args["data"]["status"] == 503


@pytest.mark.parametrize("name", ["*", "disconnect", "connect"])
def test_nobody_speaks_for_another_socket(scene, name) -> None:
    """Messages of these names are the sender's, whatever is in them: the other may still send as many as anybody."""
    victim = scene.settled(scene.wire(scene.people[VIEWER]()).connect())
    loud = scene.wire(scene.people[VIEWER]()).connect()
    for _ in range(BURST + 100):
        loud.say(name, victim.sid)
    assert loud.ask("leave", {"room": "workspace"})["error"]["status"] == 429
    assert victim.ask("leave", {"room": "workspace"})["ok"]


def test_who_loses_the_right_hears_no_more_in_any_room(scene) -> None:
    web = scene.web
    made = {name: web.user(f"{name}@example.org", Role.ADMIN) for name in (
        "disabled", "deleted", "removed", "asked", "logged-out", "page", "owner-out", "owner-off", "lowered", "raised",
    )}  # fmt: skip
    made["chief-no-more"] = web.user("chief-no-more@example.org", instance_admin=True)
    web.user("expires@example.org", Role.ADMIN)
    revoked, expired = web.new_key("read"), web.new_key("admin")
    lost = {  # who, with what, and the status they are told
        "disabled": (web.bearer("disabled@example.org"), 401),
        "deleted": (web.bearer("deleted@example.org"), 401),
        "removed": (web.bearer("removed@example.org"), 403),
        "removed, had named the workspace": (web.bearer("asked@example.org") | {"X-Workspace": "default"}, 404),
        "logged out": (web.bearer("logged-out@example.org"), 401),
        "logged out of a page": (web.cookies("page@example.org"), 401),
        "key revoked": ({"X-API-Key": revoked["key"]}, 401),
        "key expired": ({"X-API-Key": expired["key"]}, 401),
        "key of a user who was removed": (web.key("admin", user="owner-out@example.org"), 403),
        "key of a user who was disabled": (web.key("read", user="owner-off@example.org"), 401),
        "instance admin no more": (web.bearer("chief-no-more@example.org"), 403),
        "token expired": (web.bearer("expires@example.org", age=LIFETIME - timedelta(seconds=12)), 401),
    }
    kept = {
        "lowered": web.bearer("lowered@example.org"),
        "raised": web.bearer("raised@example.org"),
        "nothing happened": web.key("read"),
    }
    wires = {name: scene.settled(scene.wire(headers).connect()) for name, (headers, _) in reversed(lost.items())}
    stay = {name: scene.settled(scene.wire(headers).connect()) for name, headers in kept.items()}
    with web.engine.begin() as connection:
        users.update_user(connection, made["disabled"], disabled=True, actor="test")
        users.delete_user(connection, made["deleted"], actor="test")
        workspaces.revoke_role(connection, made["removed"], "default", actor="test")
        workspaces.revoke_role(connection, made["asked"], "default", actor="test")
        for name in ("logged-out", "page"):
            sessions.revoke_sessions(connection, made[name], because="logout")
        api_keys.revoke_api_key(connection, revoked["id"], actor="test", workspace="default")
        past = {"id": expired["id"], "at": utc_now() - timedelta(seconds=1)}
        connection.execute(text("UPDATE api_key SET expires_at = :at WHERE id = :id"), past)
        workspaces.revoke_role(connection, made["owner-out"], "default", actor="test")
        users.update_user(connection, made["owner-off"], disabled=True, actor="test")
        users.update_user(connection, made["chief-no-more"], instance_admin=False, actor="test")
        workspaces.grant_role(connection, made["lowered"], "default", Role.VIEWER, actor="test")
        workspaces.grant_role(connection, made["raised"], "default", Role.EDITOR, actor="test")
    for name, wire in wires.items():
        until(lambda wire=wire: "closed" in dict(wire.told), f"the end of {name}", PAUSE_MAX + PATIENCE)
        with contextlib.suppress(OSError, websocket.WebSocketException):  # it does not obey
            wire.say("join", {"room": "workspace"})
    answers = {name: dict(wire.answers) for name, wire in wires.items()}
    for wire in stay.values():
        scene.hears(wire)
    for name, wire in wires.items():
        until(lambda wire=wire: wire.ended, f"the connection of {name} being gone")
        assert wire.told[-1][0] == "closed", name
        assert wire.told[-1][1]["status"] == lost[name][1], name
        assert wire.answers == answers[name], name
        assert len(wire.answers) == len(scene.rooms), name
        assert not scene.wire(lost[name][0]).connect().accepted, name

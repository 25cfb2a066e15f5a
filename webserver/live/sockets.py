"""Socket.IO: who may connect, which rooms a socket joins (docs/live.md has the protocol)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from flask import Flask, request
from flask_socketio import ConnectionRefusedError as Refused
from flask_socketio import SocketIO
from sqlalchemy import Connection

from agentflow.access import Principal, Role
from agentflow.db.engine import transact
from agentflow.errors import AgentFlowError
from agentflow.runs import live
from webserver.access import Access, Authenticate, authorise
from webserver.auth.authenticate import rights_changed
from webserver.database import enter
from webserver.errors import TooManyRequests, Unavailable
from webserver.live.changes import Changes, OwnChanges, SharedChanges
from webserver.live.clients import ROOMS_MAX, Client, Clients, Credentials
from webserver.live.credentials import CREDENTIALS, is_ours, read_credentials
from webserver.live.definitions import DefinitionFeed
from webserver.live.feed import Feed
from webserver.live.guard import Guard
from webserver.live.joining import JoinMessage, LeaveMessage, ListTarget, RunTarget, Target, find_target, missed_runs
from webserver.live.listener import Listener, Note
from webserver.live.lists import ListFeed
from webserver.live.logs import LogFeed
from webserver.live.messages import NO_DATABASE, Answer, Messages, Others, problem_of
from webserver.live.pump import Pump
from webserver.live.rooms import parse_room
from webserver.live.runs import RunFeed
from webserver.offload import gevent_patched
from webserver.shared.link import RedisLink
from webserver.shared.turns import Turns
from webserver.shared.values import SharedValues
from webserver.state import Web

T = TypeVar("T")

EXTENSION = "agentflow.live"
MESSAGE_MAX = 64 * 2**10  #: Bytes of a message from a client.
PING_INTERVAL, PING_TIMEOUT = 20, 15  #: Seconds; proxies close connections that are silent for a minute.
_READER = Access(role=Role.VIEWER)


def init_live(app: Flask, web: Web, authenticate: Authenticate) -> None:
    """Serve Socket.IO beside the app's pages. Its threads start later: see `LiveServer.start`."""
    app.extensions[EXTENSION] = LiveServer(app, web, authenticate)


class LiveServer:
    """The sockets of one process, and what feeds them."""

    def __init__(self, app: Flask, web: Web, authenticate: Authenticate) -> None:
        self._app = app
        self._web = web
        self._decide = authenticate
        self._socketio = SocketIO(
            app,
            async_mode="gevent" if gevent_patched() else "threading",
            async_handlers=False,  # messages of one socket are handled in their order, and it waits while they are
            transports=["websocket"],  # one connection, one worker: several workers need no sticky sessions
            cors_allowed_origins=self._may_connect_from,
            manage_session=False,
            max_http_buffer_size=MESSAGE_MAX,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
        )
        self._targets: dict[tuple[str, str], Target] = {}  # by socket and room
        self.clients = Clients(self._socketio.server)
        self._runs = RunFeed(self._read, self.clients, self._changes_with(web.redis))
        self._lists = ListFeed(self._read, self.clients)
        self._logs = LogFeed(self._read, self.clients)
        self._definitions = DefinitionFeed(self._read, self.clients)
        self._feeds: tuple[Feed, ...] = (self._runs, self._lists, self._logs, self._definitions)
        self.pump = Pump(self._feeds)
        self.listener = Listener(
            web.settings.listen_database_url or web.url, on_note=self._noted, on_connected=self._listening
        )
        self.guard = Guard(self.clients, self._recognise, problem_of)
        self._lock = threading.Lock()
        self._started = False
        messages = self._messages = Messages(self.clients, _sid)
        self._socketio.on("connect")(self._connect)
        self._socketio.on("disconnect")(self._disconnect)
        self._socketio.on("join")(messages.answering(JoinMessage, self._join))
        self._socketio.on("leave")(messages.answering(LeaveMessage, self._leave))
        self._socketio.server.register_namespace(Others(messages.unknown))

    def start(self) -> None:
        """Begin to listen and to send; a server does it at once, else it happens with the first socket."""
        with self._lock:
            if not self._started:
                self._started = True
                self.pump.start()
                self.listener.start()
                self.guard.start()

    def close(self, grace: float) -> None:
        """Let all sockets go; after `grace` seconds, in which they take their last messages, they are cut."""
        connections = self.clients.connections()
        for connection in connections:
            connection.close()
        if connections:
            time.sleep(grace)
        for connection in {each.eio.sid: each for each in (*self.clients.connections(), *connections)}.values():
            connection.cut()
        self.listener.stop()
        self.guard.stop()
        if self._started:
            self.pump.stop()

    # -- connections -------------------------------------------------------------------------------------------------
    def _may_connect_from(self, origin: str, environ: Mapping[str, Any]) -> bool:
        """A page of another site must not open a socket with its visitor's cookies."""
        return is_ours(origin, environ, self._web.settings) or origin in self._web.settings.allowed_origins

    def _connect(self, auth: object = None) -> Answer | None:
        self.start()
        sid, environ = _sid(), request.environ
        if self.clients.connected(sid):  # a message of this name: others' credentials would be given this one's rooms
            return self._messages.unknown("connect", sid)
        credentials = read_credentials(environ, auth, self._web.settings)
        try:
            principal = self._authenticate(environ, credentials)
        except AgentFlowError as error:
            raise Refused(error.message, problem_of(error)) from error
        except NO_DATABASE as error:
            away = Unavailable("The database does not answer.")
            raise Refused(away.message, problem_of(away)) from error
        self.clients.add(sid, environ, credentials, principal)
        return None

    def _disconnect(self, *_reason: object) -> Answer | None:
        sid = _sid()
        if self.clients.connected(sid):  # a message of this name, and no end
            return self._messages.unknown("disconnect", sid)
        client = self.clients.get(sid)
        self.clients.remove(sid)
        if client is not None:
            self._forget(client)
            client.eio.close(wait=False)  # a connection is one client: the next would begin with an allowance unused
        return None

    def _forget(self, client: Client) -> None:
        for room in client.rooms:
            self._targets.pop((client.sid, room), None)
        for each in self._feeds:
            self.pump.post(partial(each.drop, client.sid))

    def _authenticate(self, environ: Mapping[str, Any], credentials: Credentials) -> Principal:
        """Who the bearer of these credentials is now.

        Raises:
            Unauthenticated: Nobody.
            Forbidden: No member of the workspace.
        """
        kept = {name: value for name, value in environ.items() if name not in CREDENTIALS}
        with self._app.request_context(kept | dict(credentials)):
            principal = self._decide(request)
            authorise(_READER, principal)
        assert principal is not None
        return principal

    def _recognise(self, client: Client) -> Principal:
        return self._authenticate(client.environ, client.credentials)

    # -- rooms -------------------------------------------------------------------------------------------------------
    def _join(self, client: Client, message: JoinMessage) -> dict[str, Any]:
        if len(client.rooms) >= ROOMS_MAX and message.room not in client.rooms:
            raise TooManyRequests(f"A socket may be in {ROOMS_MAX} rooms.", hint="leave those that are not shown")
        principal, name = client.principal, parse_room(message.room)
        answer: dict[str, Any] = {"room": message.room}
        target = self._do(principal, lambda connection: find_target(connection, principal, name))
        client.rooms.add(message.room)
        self._targets[client.sid, message.room] = target
        workspace = principal.workspace_id
        if isinstance(target, RunTarget):
            after = live.WHOLE if message.after is None else message.after
            self.pump.post(partial(self._runs.join, client.sid, workspace, target.run, after))
        elif isinstance(target, ListTarget):
            # First the room, then the look at what was missed: what happens in between is told, perhaps twice.
            for each in (self._lists, self._definitions):
                self.pump.post(partial(each.join, client.sid, workspace, target.workflow))
            known = message.known
            if known is not None:
                missed = self._do(principal, lambda connection: missed_runs(connection, principal, target, known))
                answer |= missed
        else:
            join = partial(self._logs.join, client.sid, workspace, message.room, target.key, message.after or 0)
            self.pump.post(join)
        if self.clients.get(client.sid) is None:  # the guard has closed it meanwhile, and nobody comes to leave
            self._forget(client)
        return answer

    def _leave(self, client: Client, message: LeaveMessage) -> dict[str, Any]:
        client.rooms.discard(message.room)
        target = self._targets.pop((client.sid, message.room), None)
        workspace = client.principal.workspace_id
        if isinstance(target, RunTarget):
            self.pump.post(partial(self._runs.leave, client.sid, workspace, target.run))
        elif isinstance(target, ListTarget):
            for each in (self._lists, self._definitions):
                self.pump.post(partial(each.leave, client.sid, workspace, target.workflow))
        elif target is not None:
            self.pump.post(partial(self._logs.leave, client.sid, message.room, target.key))
        return {"room": message.room}

    def _changes_with(self, redis: RedisLink | None) -> Changes:
        if redis is None:
            return OwnChanges(self._read)
        return SharedChanges(self._read, Turns(redis, lambda: self._read(0, SharedValues(redis).prefix)))

    # -- the database ------------------------------------------------------------------------------------------------
    def _noted(self, note: Note) -> None:
        if note.moved or note.moved is None:
            for each in self._feeds:
                self.pump.post(partial(each.note, note.workspace, note.moved))
        if note.workflows or note.workflows is None:
            self.pump.post(partial(self._definitions.changed, note.workspace, note.workflows))
        if note.rights:
            self._doubt_rights()

    def _listening(self) -> None:
        """Whatever was said before is lost."""
        self.pump.look()
        self._doubt_rights()

    def _doubt_rights(self) -> None:
        with self._app.app_context():
            rights_changed()

    def _do(self, principal: Principal, work: Callable[[Connection], T]) -> T:
        def scoped(connection: Connection) -> T:
            enter(connection, principal)
            return work(connection)

        return transact(self._web.engine, scoped)

    def _read(self, workspace: int, work: Callable[[Connection], T]) -> T:
        return self._do(Principal("system", "live", "system", workspace, "", Role.VIEWER), work)


def _sid() -> str:
    """The socket of the message at hand."""
    return str(request.sid)  # type: ignore[attr-defined]  # Flask-SocketIO puts it there

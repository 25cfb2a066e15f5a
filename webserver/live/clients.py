"""The connected sockets: who they are, and how much they have not taken yet."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentflow.access import Principal
from webserver.live.allowance import Allowance
from webserver.ops import metrics

log = logging.getLogger(__name__)

NAMESPACE = "/"
QUEUE_MAX = 16  #: Messages that may wait for a socket.
PATIENCE = 20.0  #: Seconds after which a socket that takes nothing is closed.
GRACE = 1.0  #: Seconds that a message waits for a socket to take the answers before it.
ROOMS_MAX = 100  #: Rooms of a socket at once.

#: What a client proved itself with, as headers of a request.
Credentials = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Client:
    """One socket."""

    sid: str
    eio: Any  #: engineio's socket.
    environ: Mapping[str, Any]  #: Of the request that opened it.
    credentials: Credentials
    principal: Principal
    rooms: set[str] = field(default_factory=set)
    congested_since: float | None = None  #: Monotonic clock.
    parting: bool = False  #: It is being closed.
    allowance: Allowance = field(default_factory=lambda: Allowance(time.monotonic()))


@dataclass(frozen=True, slots=True)
class Connection:
    """What carries a socket. Made before its end: nobody else remembers the request afterwards."""

    eio: Any
    environ: Mapping[str, Any]

    def close(self) -> None:
        """Let it go, once it has taken what waits for it."""
        self.eio.close(wait=False)

    def cut(self) -> None:
        """End it: whoever reads from it or writes to it stops."""
        connection = self.environ.get("gunicorn.socket")
        with contextlib.suppress(OSError):
            if connection is not None:
                connection.shutdown(socket.SHUT_RDWR)
        self.eio.close(wait=False, abort=True)


class Clients:
    """All sockets of this process; the feeds send through it."""

    def __init__(self, server: Any) -> None:
        """`server`: python-socketio's."""
        self._server = server
        self._by_sid: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(self, sid: str, environ: Mapping[str, Any], credentials: Credentials, principal: Principal) -> Client:
        """A socket was let in."""
        eio = self._server.eio.sockets[self._server.manager.eio_sid_from_sid(sid, NAMESPACE)]
        client = self._by_sid[sid] = Client(sid, eio, environ, credentials, principal)
        metrics.SOCKETS.set(len(self._by_sid))
        return client

    def get(self, sid: str) -> Client | None:
        """A socket that is connected."""
        return self._by_sid.get(sid)

    def connected(self, sid: str) -> bool:
        """Whether a socket is neither about to connect nor about to end."""
        return bool(self._server.manager.is_connected(sid, NAMESPACE))

    def remove(self, sid: str) -> None:
        """A socket is gone."""
        self._by_sid.pop(sid, None)
        metrics.SOCKETS.set(len(self._by_sid))

    def all(self) -> list[Client]:
        """Those connected at this moment."""
        return list(self._by_sid.values())

    # -- what the feeds need (webserver.live.feed.Outlet) -------------------------------------------------------------
    def send(self, event: str, payload: Mapping[str, Any], sids: Collection[str]) -> None:
        """Queue a message for these sockets; it is encoded once."""
        there = [sid for sid in sids if sid in self._by_sid]
        if there:
            self._server.emit(event, payload, to=there, namespace=NAMESPACE)
            metrics.LIVE_MESSAGES.labels(event).inc(len(there))

    def congested(self, sid: str) -> bool:
        """Whether too much waits for a socket; one for which that lasts is closed: nothing may grow for its sake."""
        client = self._by_sid.get(sid)
        if client is None:
            return True  # about to be dropped
        if client.eio.queue.qsize() < QUEUE_MAX:
            client.congested_since = None
            return False
        now = time.monotonic()
        if client.congested_since is None:
            client.congested_since = now
        elif now - client.congested_since > PATIENCE:
            log.warning("live_client_too_slow", extra={"principal": client.principal.name})
            metrics.LIVE_TOO_SLOW.inc()
            client.congested_since = now
            Connection(client.eio, client.environ).cut()
        return True

    def keeps_up(self, client: Client) -> bool:
        """Whether a socket takes its answers. Who sends much at once is ahead of them for a moment: that is waited for."""
        pause = 0.0  # others' turn, the one who writes to it among them
        while self.congested(client.sid):
            since = client.congested_since
            if self.get(client.sid) is None or since is None or time.monotonic() - since > GRACE:
                return False
            time.sleep(pause)
            pause = min(2 * pause + 0.001, 0.1)
        return not client.parting

    def close(self, client: Client, problem: Mapping[str, Any]) -> None:
        """Tell a socket why it ends, and end it."""
        client.parting = True
        self.send("closed", problem, [client.sid])
        client.eio.close(wait=False)

    # -- connections, those that have not said who they are among them ------------------------------------------------
    def connections(self) -> list[Connection]:
        """All of this process."""
        return [
            Connection(eio, self._server.environ.get(sid, {})) for sid, eio in list(self._server.eio.sockets.items())
        ]

    def strangers(self) -> dict[str, Connection]:
        """Those whose clients have not said who they are."""
        known = {client.eio.sid for client in self._by_sid.values()}
        return {each.eio.sid: each for each in self.connections() if each.eio.sid not in known}

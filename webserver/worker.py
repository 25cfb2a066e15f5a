"""gunicorn's gevent worker, with an end that does not wait for who only listens."""

from __future__ import annotations

import socket
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

GOODBYE = 1.0  #: Seconds that a websocket gets to take its last messages.


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A websocket is a request that never ends, and a connection kept alive is one that may never come.

    At the end of a worker gunicorn waits for both as if they were work. Here they are closed at once, and only requests
    that are being answered are waited for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[Any] = set()  # connections that wait for their next request

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection; not one that comes back at once after we have let it go."""
        if not self.alive:
            client.close()
            return
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer one request of a connection."""
        self._idle.discard(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle.add(sock)
            if not self.alive:
                _shut(sock)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: let the work end, close the rest."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._part)

    def _part(self) -> None:
        for client in list(self._idle):
            _shut(client)
        live = self.wsgi.extensions.get("agentflow.live")
        if live is not None:
            live.close(GOODBYE)


def _shut(client: Any) -> None:
    """Nothing more is read from it; an answer on its way still gets out."""
    try:
        client.shutdown(socket.SHUT_RD)
    except OSError:
        return  # gone already

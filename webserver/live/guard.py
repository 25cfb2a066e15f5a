"""Rights while a socket lives: what let it in is tried again and again, and the socket ends when that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from agentflow.access import Principal
from agentflow.errors import AgentFlowError
from webserver.live.clients import Client, Clients, Credentials

log = logging.getLogger(__name__)

CHECK = 3.0  #: Seconds between looks at the same credentials.
STRANGER = 10.0  #: Seconds that a connection has to say who it is.
SHARE = 20  #: A round of looks may take one part in this of the time, whatever the number of sockets,
PAUSE_MAX = 15.0  #: but who has lost a right must not keep it for long: seconds between rounds at most.


def pause_after(took: float) -> float:
    """Seconds until the next round, after one that took so long."""
    return min(max(CHECK, SHARE * took), PAUSE_MAX)


def rest_after(took: float) -> float:
    """Seconds until the next round even if rights have changed: they may change all the time."""
    return min(4 * took, CHECK)


class Guard:
    """A thread that closes sockets whose token has expired, whose session or key was revoked, whose role was taken."""

    def __init__(
        self,
        clients: Clients,
        authenticate: Callable[[Client], Principal],
        told: Callable[[AgentFlowError], Mapping[str, Any]],
    ) -> None:
        """
        Args:
            clients: Who is connected.
            authenticate: Who a client is by what it proved itself with; raises AgentFlowError if nobody any more.
            told: The document of an error.
        """
        self._clients = clients
        self._authenticate = authenticate
        self._told = told
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._strangers: dict[str, float] = {}  # by engineio's id, since when (monotonic clock)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="live-guard", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()
        self._hurry.set()

    def hurry(self) -> None:
        """Rights have changed: look now."""
        self._hurry.set()

    def _run(self) -> None:
        pause = CHECK
        while True:
            self._hurry.wait(pause)
            self._hurry.clear()
            if self._stopping.is_set():
                return
            began = time.monotonic()
            try:
                self._close_strangers()
                self.check()
            except Exception as error:  # noqa: BLE001 - a database that is away takes no rights
                log.warning("live_guard_failed", extra={"error": str(error).partition("\n")[0]})
            took = time.monotonic() - began
            if self._stopping.wait(rest_after(took)):
                return
            pause = pause_after(took)

    def _close_strangers(self) -> None:
        """A connection that does not say who it is holds a place for nothing."""
        now, strangers = time.monotonic(), self._clients.strangers()
        self._strangers = {sid: self._strangers.get(sid, now) for sid in strangers}
        for sid, since in self._strangers.items():
            if now - since > STRANGER:
                strangers[sid].cut()

    def check(self) -> None:
        """Look at everybody once; those with the same credentials together."""
        groups: dict[Credentials, list[Client]] = defaultdict(list)
        for client in self._clients.all():
            groups[client.credentials].append(client)
        for clients in groups.values():
            try:
                principal = self._authenticate(clients[0])
            except AgentFlowError as error:
                for client in clients:
                    log.info("live_rights_gone", extra={"principal": client.principal.name, "reason": error.word})
                    self._clients.close(client, self._told(error))
                continue
            for client in clients:
                client.principal = principal

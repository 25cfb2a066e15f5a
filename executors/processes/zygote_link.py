"""The executor's end of the zygote: starts it, asks it for runners and signals, reads its reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.runner import wire
from executors.processes.handle import Handle
from executors.processes.outcomes import ProcessEnd
from executors.processes.policy import ProcessPolicy
from executors.processes.protocol import EXITED, FORK, FORKED, SIGNAL, WATCH, Breach


@dataclass(frozen=True, slots=True)
class Forked:
    """A runner process exists."""

    id: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A runner process is gone, and with it everything it had started."""

    id: int
    end: ProcessEnd
    area: bytes  #: Its pending log lines.
    rest: dict[str, bytes]  #: What its standard streams still held.


class ZygoteLink:
    """One zygote process; when it has died, make another one."""

    def __init__(self, bundles_dir: Path, policy: ProcessPolicy) -> None:
        orders = {
            "bundles_dir": str(bundles_dir),
            "one_attempt": policy.one_attempt,
            "confinement": policy.confinement.as_document(),
        }
        self.sock, remote = socket.socketpair()
        self._frames = wire.FrameReader()
        with remote:
            os.set_inheritable(remote.fileno(), True)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "executors.processes.zygote", str(remote.fileno()), json.dumps(orders)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                env=policy.environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for the scheduler
            )

    def fork(self, handle: Handle, folder: Path) -> None:
        """Ask for a runner process with a folder of its own."""
        message = _message(FORK, {"id": handle.id, "folder": str(folder), "lane": handle.lane})
        with suppress(OSError):  # it died; `receive` says so
            socket.send_fds(self.sock, [message], [handle.remote_sock.fileno(), handle.token_read])
        handle.remote_sock.close()  # from now on the end of the process is the end of the stream

    def signal(self, handle: Handle, number: int) -> None:
        """Send a signal to a runner's process group."""
        self._send(SIGNAL, {"id": handle.id, "signal": int(number)})

    def watch(self, handle: Handle, *, on: bool, memory: int | None = None) -> None:
        """Kill the runner when its family uses too much, `memory` bytes more than now for example; or stop watching."""
        self._send(WATCH, {"id": handle.id, "on": on, "memory": memory})

    def receive(self) -> list[Forked | Exited] | None:
        """Reports that have arrived; None when the zygote is gone."""
        try:
            data = self.sock.recv(256 * 1024)
        except OSError:
            data = b""
        if not data:
            return None
        return [_report(kind, body) for kind, body in self._frames.feed(data)]

    def close(self, timeout: float) -> None:
        """End it, and with it all runners."""
        self.sock.close()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, kind: int, document: dict[str, Any]) -> None:
        with suppress(OSError):
            self.sock.sendall(_message(kind, document))


def _message(kind: int, document: dict[str, Any]) -> bytes:
    return wire.frame(kind, json.dumps(document).encode())


def _report(kind: int, body: bytes) -> Forked | Exited:
    head, _, blob = body.partition(b"\n")
    document = json.loads(head)
    if kind == FORKED:
        return Forked(document["id"], document["pid"])
    if kind != EXITED:
        raise wire.WireError(f"kind {kind} from the zygote")
    area, out, _ = document["sizes"]
    return Exited(
        document["id"],
        ProcessEnd(document["status"], Breach(document["breach"]) if document["breach"] else None),
        blob[:area],
        {"stdout": blob[area : area + out], "stderr": blob[area + out :]},
    )

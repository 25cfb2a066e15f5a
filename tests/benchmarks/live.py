"""The live feed: how long a change takes to one client, and to the last of 1,000; what they cost; how fast it stops."""

from __future__ import annotations

import json
import resource
import selectors
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import _workflows
import psutil
import websocket
from _report import Report
from _single import single
from _system import BenchmarkFailed, System
from sqlalchemy import Connection, text

from agentflow.db.notify import notify_live

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.live_kit import Server

CROWD = 1000
CHANGES = 30  #: Seen by one client.
BATCH = 100  #: Sockets that connect before the others are looked after.
CROWD_CHANGES = 10
PARTING = 50  #: Sockets that are open when the server is asked to stop.
PAUSE = 0.15  # seconds between changes: more than the pace of a room, so that none waits for another
PATIENCE = 30.0  # seconds

_CHANGE = text("UPDATE run SET event_seq = event_seq + 1 WHERE id = :run RETURNING event_seq")
_EVENT = text("""
INSERT INTO run_event (run_id, seq, at, kind, node_no, map_index, attempt, state)
VALUES (:run, :seq, clock_timestamp(), 'node', 0, -1, 1, 'success')
""")
_WORKSPACE = text("SELECT workspace_id FROM run WHERE id = :run")


class Socket:
    """A Socket.IO client as small as can be: 1,000 of them must not be what is measured."""

    def __init__(self, server: Server, room: str) -> None:
        url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
        self.connection = websocket.create_connection(url, timeout=PATIENCE)
        self.receive()
        self.connection.send('40{"token":"viewer bench"}')
        self.until("40")
        self.connection.send(f"420{json.dumps(['join', {'room': room, 'after': 0}])}")
        self.until("42")

    def receive(self) -> str:
        """A message; the server's pings are answered."""
        message = str(self.connection.recv())
        if message == "2":
            self.connection.send("3")
        return message

    def until(self, start: str) -> None:
        """Skip what does not begin like this."""
        while not self.receive().startswith(start):
            pass


def change(system: System, run: uuid.UUID, workspace: int) -> float:
    """Let a run move on by one; when that was begun, by `time.perf_counter()`."""

    def move(connection: Connection) -> None:
        seq = connection.scalar(_CHANGE, {"run": run})
        connection.execute(_EVENT, {"run": run, "seq": seq})
        notify_live(connection, workspace, {run: int(seq or 0)})

    began = time.perf_counter()
    system.do(move)
    return began


def times_to(sockets: list[Socket], began: float) -> list[float]:
    """Seconds until each of them has the message about it."""
    waiting = selectors.DefaultSelector()
    for one in sockets:
        waiting.register(one.connection.sock, selectors.EVENT_READ, one)
    times: list[float] = []
    deadline = time.perf_counter() + PATIENCE
    while len(times) < len(sockets):
        if time.perf_counter() > deadline:
            raise BenchmarkFailed(f"{len(sockets) - len(times)} clients were not told")
        for key, _ in waiting.select(1.0):
            if key.data.receive().startswith("42"):
                times.append(time.perf_counter() - began)
                waiting.unregister(key.fileobj)
    waiting.close()
    return times


def answer_pings(sockets: list[Socket]) -> None:
    """Read what waits; the server closes sockets that do not answer for 35 s."""
    readable = selectors.DefaultSelector()
    for one in sockets:
        readable.register(one.connection.sock, selectors.EVENT_READ, one)
    for key, _ in readable.select(0):
        key.data.receive()
    readable.close()


@contextmanager
def webserver(system: System, **options: str) -> Iterator[Server]:
    """One with one worker, on the system's database."""
    server = Server(system.url, system.home, **options)
    try:
        server.ready()
        yield server
    finally:
        server.close()


def measure(system: System, report: Report, *, crowd: int = CROWD, changes: int = CHANGES) -> None:
    """Add the figures."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * crowd)), hard))
    name = system.apply(_workflows.chain("bench-live", 2, _workflows.noop()))
    run = uuid.UUID(system.run(name)["id"])
    workspace = int(system.do(lambda c: c.scalar(_WORKSPACE, {"run": run})) or 0)
    moved = partial(change, system, run, workspace)
    with webserver(system) as server:
        worker = psutil.Process(server.workers()[0].pid)
        one = Socket(server, f"run:{run}")
        alone = []
        for _ in range(changes):
            time.sleep(PAUSE)
            alone += times_to([one], moved())
        report.add("live: a change to one client, median", statistics.median(alone) * 1000, "ms", goal=50)
        before = worker.memory_info().rss
        sockets = [one]
        with ThreadPoolExecutor(16) as pool:
            while len(sockets) < crowd:
                some = range(min(BATCH, crowd - len(sockets)))
                sockets += pool.map(lambda _: Socket(server, f"run:{run}"), some)
                answer_pings(sockets)
        grown = worker.memory_info().rss - before
        lasts, used = [], sum(worker.cpu_times()[:2])
        for _ in range(CROWD_CHANGES):
            time.sleep(4 * PAUSE)
            answer_pings(sockets)
            lasts.append(max(times_to(sockets, moved())))
        report.add(f"  to the last of {crowd:,}, median", statistics.median(lasts) * 1000, "ms", goal=500)
        used = sum(worker.cpu_times()[:2]) - used
        report.add(f"  processor time for {crowd:,} messages", used / CROWD_CHANGES * 1000, "ms")
        report.add("  the slowest of all", max(lasts) * 1000, "ms")
        report.add("  memory for each socket", grown / crowd / 1024, "KB")
        for each in sockets[PARTING:]:
            each.connection.close()
        report.add(f"  stopping with {PARTING} sockets open", server.stop(), "s", goal=3)
        for each in sockets[:PARTING]:
            each.connection.shutdown()


if __name__ == "__main__":
    single(measure)

"""Rooms `logs:RUN/NODE/ATTEMPT`: the lines of an attempt as they are stored.

Nobody announces lines of logs (ENGINE 7): the attempts that somebody watches are looked at twice a second.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from agentflow.db.queries.attempts import AttemptKey
from agentflow.runs import live
from webserver.live.feed import CONGESTED_AGAIN, PACE, Moved, Outlet, Read

EVENT = "logs"
POLL = 0.5  #: Seconds between looks at an attempt that is watched.
LATE = 2.0  #: Seconds after an attempt's end in which lines may still come: they are stored beside the states.


class Room(NamedTuple):
    """One way to name an attempt: a node of a sub-run has an address within each run above it, and an id of its run."""

    name: str  #: As the client wrote it, and is told.
    key: AttemptKey


@dataclass(slots=True)
class _Watched:
    """A room that somebody is in."""

    workspace: int
    positions: dict[str, live.LogPosition] = field(default_factory=dict)  #: By socket.
    due: float = 0.0  #: Monotonic clock, as `looked`.
    looked: float = 0.0
    quiet_since: float | None = None  #: The attempt has ended, and no line has come since then.


class LogFeed:
    """See the module."""

    def __init__(self, read: Read, outlet: Outlet) -> None:
        self._read = read
        self._outlet = outlet
        self._rooms: dict[Room, _Watched] = {}

    def join(self, sid: str, workspace: int, name: str, key: AttemptKey, after: int) -> None:
        """A socket wants the lines after that number."""
        watched = self._rooms.setdefault(Room(name, key), _Watched(workspace))
        watched.positions[sid] = live.LogPosition(key, after)
        watched.due, watched.quiet_since = 0.0, None

    def leave(self, sid: str, name: str, key: AttemptKey) -> None:
        """A socket wants no more."""
        watched = self._rooms.get(Room(name, key))
        if watched is None:
            return
        watched.positions.pop(sid, None)
        if not watched.positions:
            del self._rooms[Room(name, key)]

    def drop(self, sid: str) -> None:
        """A socket is gone."""
        for room in [room for room, watched in self._rooms.items() if sid in watched.positions]:
            self.leave(sid, *room)

    def note(self, workspace: int, moved: Moved) -> None:
        """A run that moved may have said something; not looked at more often than the pace allows."""
        runs: set[uuid.UUID] | None = None if moved is None else set(moved)
        for room, watched in self._rooms.items():
            if watched.workspace == workspace and (runs is None or room.key[0] in runs):
                watched.due = min(watched.due, watched.looked + PACE)

    def look(self) -> None:
        """It polls anyway."""

    def work(self, now: float) -> float | None:
        """Tell what is due."""
        by_workspace: dict[int, list[Room]] = defaultdict(list)
        for room, watched in self._rooms.items():
            if watched.due <= now:
                by_workspace[watched.workspace].append(room)
        for workspace, rooms in by_workspace.items():
            self._tell(workspace, rooms, now)
        return min(watched.due for watched in self._rooms.values()) - now if self._rooms else None

    def _tell(self, workspace: int, rooms: list[Room], now: float) -> None:
        groups: dict[tuple[Room, live.LogPosition], list[str]] = defaultdict(list)
        for room in rooms:
            watched = self._rooms[room]
            watched.looked, watched.due = now, now + POLL
            for sid, position in watched.positions.items():
                if self._outlet.congested(sid):
                    watched.due = min(watched.due, now + CONGESTED_AGAIN)
                else:
                    groups[room, position].append(sid)
        if not groups:
            return
        wanted = [position for _, position in groups]
        tails = self._read(workspace, lambda connection: live.log_tails(connection, wanted))
        for ((room, _), sids), tail in zip(groups.items(), tails, strict=True):
            self._deliver(room, tail, sids, now)

    def _deliver(self, room: Room, tail: live.LogTail, sids: list[str], now: float) -> None:
        watched = self._rooms[room]
        for sid in sids:
            watched.positions[sid] = tail.position
        if tail.lines:
            self._send(room, tail, sids, ended=False)
        if tail.more:
            watched.due = now + PACE
        if tail.lines or tail.more or not tail.ended:
            watched.quiet_since = None
        elif watched.quiet_since is None:
            watched.quiet_since = now
        elif now - watched.quiet_since >= LATE:
            self._send(room, tail, sids, ended=True)
            for sid in sids:
                self.leave(sid, *room)

    def _send(self, room: Room, tail: live.LogTail, sids: list[str], *, ended: bool) -> None:
        message = {
            "room": room.name,
            "lines": tail.lines,
            "next": tail.position.seq,
            "truncated_bytes": tail.truncated_bytes,
            "ended": ended,
        }
        self._outlet.send(EVENT, message, sids)

"""Rooms `run:ID`: every watcher has a position in the run's history, and gets what follows it.

A watcher that reconnects, one that is slow and one that has just come differ in their positions only. Nothing is kept
for them: what follows a position is read from the database.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentflow.db.notify import GONE
from agentflow.runs import live
from webserver.live.changes import Changes, Wanted
from webserver.live.feed import CONGESTED_AGAIN, PACE, Moved, Outlet, Read

Room = tuple[int, uuid.UUID]  #: Workspace and run.
EVENT = "run"
TURN = 0.01  #: Seconds until a room is looked at again that another process reads,
TURNS = 20  #: and how often, before it is read here.
SHARED_FROM = (
    50  #: Node runs of a room's last change from which on its next one is shared: a small one is read as fast.
)


@dataclass(slots=True)
class Watcher:
    """One socket in a room."""

    position: int
    fresh: bool = True  #: Has joined and not been told anything: the first message comes even if nothing happened.


class RunFeed:
    """See the module."""

    def __init__(self, read: Read, outlet: Outlet, changes: Changes) -> None:
        self._read = read
        self._outlet = outlet
        self._changes = changes
        self._rooms: dict[Room, dict[str, Watcher]] = {}
        self._due: dict[Room, float] = {}  # rooms that may have news, and when to look (monotonic clock)
        self._sent: dict[Room, float] = {}
        self._noted: dict[Room, int] = {}  # how far the database is known to be; missing: it has to be asked
        self._sizes: dict[Room, int] = {}  # node runs of the last change that was told
        self._left: Counter[Room] = Counter()  # how often in a row a reading was left to another process

    def join(self, sid: str, workspace: int, run: uuid.UUID, after: int) -> None:
        """A socket wants what follows a position; joining again changes the position."""
        self._rooms.setdefault((workspace, run), {})[sid] = Watcher(after)
        self._mark((workspace, run))

    def leave(self, sid: str, workspace: int, run: uuid.UUID) -> None:
        """A socket wants no more."""
        room = (workspace, run)
        watchers = self._rooms.get(room, {})
        watchers.pop(sid, None)
        if not watchers:
            for table in (self._rooms, self._due, self._sent, self._noted, self._sizes, self._left):
                table.pop(room, None)

    def drop(self, sid: str) -> None:
        """A socket is gone."""
        for workspace, run in [room for room, watchers in self._rooms.items() if sid in watchers]:
            self.leave(sid, workspace, run)

    def note(self, workspace: int, moved: Moved) -> None:
        """Runs have moved."""
        if moved is None:
            for room in self._rooms:
                if room[0] == workspace:
                    self._noted.pop(room, None)
                    self._mark(room)
            return
        for run, seq in moved.items():
            room = (workspace, run)
            watchers = self._rooms.get(room, {})
            if seq == GONE and watchers:
                self._noted.pop(room, None)
                self._mark(room)
            elif any(watcher.position < seq for watcher in watchers.values()):
                self._noted[room] = max(seq, self._noted.get(room, 0))
                self._mark(room)

    def look(self) -> None:
        """Compare the positions of all watched runs with the database's."""
        by_workspace: dict[int, list[uuid.UUID]] = defaultdict(list)
        for workspace, run in self._rooms:
            by_workspace[workspace].append(run)
        for workspace, runs in by_workspace.items():
            found = self._read(workspace, partial(live.positions, workspace=workspace, runs=runs))
            self.note(workspace, dict.fromkeys(runs, GONE) | found)

    def work(self, now: float) -> float | None:
        """Tell what is due."""
        by_workspace: dict[int, list[Room]] = defaultdict(list)
        for room, due in self._due.items():
            if due <= now:
                by_workspace[room[0]].append(room)
        for workspace, rooms in by_workspace.items():
            self._tell(workspace, rooms, now)
        return min(self._due.values()) - now if self._due else None

    def _mark(self, room: Room) -> None:
        self._due.setdefault(room, self._sent.get(room, 0.0) + PACE)

    def _tell(self, workspace: int, rooms: list[Room], now: float) -> None:
        most: dict[Room, list[str]] = {}
        others: dict[Room, list[str]] = {}
        waiting: set[Room] = set()
        for room in rooms:
            able = [sid for sid in self._rooms[room] if not self._outlet.congested(sid)]
            if len(able) < len(self._rooms[room]):
                waiting.add(room)
            if able:
                most[room], others[room] = self._split(room, able)
        left: set[Room] = set()
        for group in (most, {room: sids for room, sids in others.items() if sids}):
            if group:
                left |= self._tell_group(workspace, group)
        for room in rooms:
            if room in left:
                self._left[room] += 1
                self._due[room] = now + TURN
                continue
            self._left.pop(room, None)
            self._sent[room] = now
            if room in waiting and room in self._rooms:
                self._due[room] = now + CONGESTED_AGAIN
            else:
                self._due.pop(room, None)
                if room not in self._rooms:
                    self._sent.pop(room, None)
                    self._noted.pop(room, None)

    def _split(self, room: Room, sids: Iterable[str]) -> tuple[list[str], list[str]]:
        """Those at the position that most are at, and the rest."""
        watchers = self._rooms[room]
        usual = Counter(watchers[sid].position for sid in sids).most_common(1)[0][0]
        same = [sid for sid in sids if watchers[sid].position == usual]
        return same, [sid for sid in sids if watchers[sid].position != usual]

    def _tell_group(self, workspace: int, group: dict[Room, list[str]]) -> set[Room]:
        """Rooms of which another process is reading the same are left, and returned."""
        wanted = {room[1]: self._wanted(room, sids) for room, sids in group.items()}
        changes, elsewhere = self._changes(workspace, wanted)
        left = {room for room in group if room[1] in elsewhere}
        for room, sids in group.items():
            if room not in left:
                self._deliver(room, changes.get(room[1]), sids)
        return left

    def _wanted(self, room: Room, sids: Iterable[str]) -> Wanted:
        watchers = [self._rooms[room][sid] for sid in sids]
        # A newcomer may know more than what was noted here, and who has left it to others long enough reads.
        small = self._sizes.get(room, 0) < SHARED_FROM
        alone = small or any(watcher.fresh for watcher in watchers) or self._left[room] >= TURNS
        return Wanted(min(watcher.position for watcher in watchers), None if alone else self._noted.get(room))

    def _deliver(self, room: Room, change: dict[str, Any] | None, sids: list[str]) -> None:
        name = f"run:{room[1]}"
        if change is None:  # deleted, with all that was known about it
            self._outlet.send(EVENT, {"room": name, "gone": True}, sids)
            for sid in sids:
                self.leave(sid, *room)
            return
        watchers = self._rooms[room]
        told = [sid for sid in sids if watchers[sid].fresh or watchers[sid].position < change["seq"]]
        if told:
            self._outlet.send(EVENT, {"room": name, **change}, told)
        for sid in told:
            watchers[sid].position, watchers[sid].fresh = change["seq"], False
        self._sizes[room] = len(change["nodes"]) if "nodes" in change else live.NODES_MAX

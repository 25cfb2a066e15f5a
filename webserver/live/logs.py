"""Rooms `logs:RUN/NODE/ATTEMPT`: the lines of an attempt as they are stored.

Nobody announces lines of logs (ENGINE 7): the attempts that somebody watches are looked at twice a second.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field

from agentflow.db.queries.attempts import AttemptKey
from agentflow.runs import live
from webserver.live.feed import CONGESTED_AGAIN, PACE, Moved, Outlet, Read

EVENT = "logs"
POLL = 0.5  #: Seconds between looks at an attempt that is watched.
LATE = 2.0  #: Seconds after an attempt's end in which lines may still come: they are stored beside the states.


@dataclass(slots=True)
class _Watched:
    """An attempt that somebody watches."""

    name: str  #: Of the room, as the client wrote it.
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
        self._attempts: dict[AttemptKey, _Watched] = {}

    def join(self, sid: str, workspace: int, name: str, key: AttemptKey, after: int) -> None:
        """A socket wants the lines after that number."""
        watched = self._attempts.setdefault(key, _Watched(name, workspace))
        watched.positions[sid] = live.LogPosition(key, after)
        watched.due, watched.quiet_since = 0.0, None

    def leave(self, sid: str, key: AttemptKey) -> None:
        """A socket wants no more."""
        watched = self._attempts.get(key)
        if watched is None:
            return
        watched.positions.pop(sid, None)
        if not watched.positions:
            del self._attempts[key]

    def drop(self, sid: str) -> None:
        """A socket is gone."""
        for key in [key for key, watched in self._attempts.items() if sid in watched.positions]:
            self.leave(sid, key)

    def note(self, workspace: int, moved: Moved) -> None:
        """A run that moved may have said something; not looked at more often than the pace allows."""
        runs: set[uuid.UUID] | None = None if moved is None else set(moved)
        for key, watched in self._attempts.items():
            if watched.workspace == workspace and (runs is None or key[0] in runs):
                watched.due = min(watched.due, watched.looked + PACE)

    def look(self) -> None:
        """It polls anyway."""

    def work(self, now: float) -> float | None:
        """Tell what is due."""
        by_workspace: dict[int, list[AttemptKey]] = defaultdict(list)
        for key, watched in self._attempts.items():
            if watched.due <= now:
                by_workspace[watched.workspace].append(key)
        for workspace, keys in by_workspace.items():
            self._tell(workspace, keys, now)
        return min(watched.due for watched in self._attempts.values()) - now if self._attempts else None

    def _tell(self, workspace: int, keys: list[AttemptKey], now: float) -> None:
        groups: dict[live.LogPosition, list[str]] = defaultdict(list)
        for key in keys:
            watched = self._attempts[key]
            watched.looked, watched.due = now, now + POLL
            for sid, position in watched.positions.items():
                if self._outlet.congested(sid):
                    watched.due = min(watched.due, now + CONGESTED_AGAIN)
                else:
                    groups[position].append(sid)
        if not groups:
            return
        for tail, sids in zip(
            self._read(workspace, lambda connection: live.log_tails(connection, list(groups))),
            groups.values(),
            strict=True,
        ):
            self._deliver(self._attempts[tail.position.key], tail, sids, now)

    def _deliver(self, watched: _Watched, tail: live.LogTail, sids: list[str], now: float) -> None:
        for sid in sids:
            watched.positions[sid] = tail.position
        if tail.lines:
            self._send(watched, tail, sids, ended=False)
        if tail.more:
            watched.due = now + PACE
        if tail.lines or tail.more or not tail.ended:
            watched.quiet_since = None
        elif watched.quiet_since is None:
            watched.quiet_since = now
        elif now - watched.quiet_since >= LATE:
            self._send(watched, tail, sids, ended=True)
            for sid in sids:
                self.leave(sid, tail.position.key)

    def _send(self, watched: _Watched, tail: live.LogTail, sids: list[str], *, ended: bool) -> None:
        message = {
            "room": watched.name,
            "lines": tail.lines,
            "next": tail.position.seq,
            "truncated_bytes": tail.truncated_bytes,
            "ended": ended,
        }
        self._outlet.send(EVENT, message, sids)

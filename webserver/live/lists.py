"""Rooms `workspace` and `workflow:NAME`: runs as lists show them, whenever one of them changes.

Every run in a message carries its own `event_seq`: there is no order between runs to keep.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentflow.db.notify import GONE
from agentflow.runs import live
from webserver.live.feed import CONGESTED_AGAIN, PACE, Moved, Outlet, Read

EVENT = "runs"
WORKSPACE = "workspace"


def room_of(workflow: str | None) -> str:
    """The room of a workflow, or of the whole workspace."""
    return WORKSPACE if workflow is None else f"workflow:{workflow}"


@dataclass(slots=True)
class _Watched:
    """A workspace that somebody watches."""

    rooms: dict[str | None, set[str]] = field(default_factory=dict)  #: Sockets by workflow; None: all workflows.
    known: live.Known | None = None
    pending: set[uuid.UUID] = field(default_factory=set)  #: Runs that have moved and are not told.
    gone: list[str] = field(default_factory=list)  #: Those of them that were deleted.
    look: bool = True  #: Whether runs may have moved without a notification.
    reset: bool = False  #: More has happened than can be told.
    stale: set[tuple[str | None, str]] = field(default_factory=set)  #: Rooms and sockets that missed a message.
    sent: float = 0.0  #: Monotonic clock.

    @property
    def busy(self) -> bool:
        return bool(self.pending) or self.look or self.reset


class ListFeed:
    """See the module."""

    def __init__(self, read: Read, outlet: Outlet) -> None:
        self._read = read
        self._outlet = outlet
        self._workspaces: dict[int, _Watched] = {}

    def join(self, sid: str, workspace: int, workflow: str | None) -> None:
        """A socket wants the changes from now on; what it shows it reads after this."""
        watched = self._workspaces.setdefault(workspace, _Watched())
        watched.rooms.setdefault(workflow, set()).add(sid)

    def leave(self, sid: str, workspace: int, workflow: str | None) -> None:
        """A socket wants no more."""
        watched = self._workspaces.get(workspace)
        if watched is None:
            return
        watched.stale.discard((workflow, sid))
        sids = watched.rooms.get(workflow, set())
        sids.discard(sid)
        if not sids:
            watched.rooms.pop(workflow, None)
        if not watched.rooms:
            del self._workspaces[workspace]

    def drop(self, sid: str) -> None:
        """A socket is gone."""
        for workspace, watched in list(self._workspaces.items()):
            for workflow in [workflow for workflow, sids in watched.rooms.items() if sid in sids]:
                self.leave(sid, workspace, workflow)

    def note(self, workspace: int, moved: Moved) -> None:
        """Runs have moved."""
        watched = self._workspaces.get(workspace)
        if watched is None:
            return
        if moved is None:
            watched.look = True
        else:
            watched.pending.update(moved)
            watched.gone += [str(run) for run, seq in moved.items() if seq == GONE]

    def look(self) -> None:
        """Look for runs that moved without a notification."""
        for watched in self._workspaces.values():
            watched.look = True

    def work(self, now: float) -> float | None:
        """Tell what is due."""
        waits = []
        for workspace, watched in self._workspaces.items():
            self._comfort(watched)
            if watched.busy and watched.sent + PACE <= now:
                self._tell(workspace, watched)
                watched.sent = now
            if watched.busy:
                waits.append(max(0.0, watched.sent + PACE - now))
            if watched.stale:
                waits.append(CONGESTED_AGAIN)
        return min(waits) if waits else None

    def _comfort(self, watched: _Watched) -> None:
        """Those who missed a message and can take one now are told to read their list anew."""
        for workflow, sid in [each for each in watched.stale if not self._outlet.congested(each[1])]:
            watched.stale.discard((workflow, sid))
            self._outlet.send(EVENT, {"room": room_of(workflow), "reset": True}, [sid])

    def _tell(self, workspace: int, watched: _Watched) -> None:
        if watched.look:
            found = self._read(workspace, partial(live.look_around, workspace=workspace, known=watched.known))
            watched.look = False
            if found is None:
                watched.reset, watched.known = True, None
            else:
                moved, watched.known = found
                watched.pending.update(moved)
        if watched.reset or len(watched.pending) > live.RUNS_MAX:
            watched.pending.clear()
            watched.gone.clear()
            watched.reset = False
            self._send_all(watched, {workflow: {"reset": True} for workflow in watched.rooms})
        elif watched.pending:
            pending = list(watched.pending)
            rows = self._read(workspace, partial(live.run_rows, workspace=workspace, runs=pending))
            watched.pending.difference_update(pending)
            if watched.known is not None:
                watched.known.tell(rows)
            gone, watched.gone = watched.gone, []
            self._send_all(watched, _by_room(rows, gone, watched.rooms))

    def _send_all(self, watched: _Watched, messages: Mapping[str | None, Mapping[str, Any]]) -> None:
        for workflow, message in messages.items():
            sids = watched.rooms[workflow]
            able = {sid for sid in sids if not self._outlet.congested(sid) and (workflow, sid) not in watched.stale}
            watched.stale.update((workflow, sid) for sid in sids - able)
            if able:
                self._outlet.send(EVENT, {"room": room_of(workflow), **message}, able)


def _by_room(
    rows: Iterable[Mapping[str, Any]], gone: Sequence[str], rooms: Collection[str | None]
) -> dict[str | None, dict[str, Any]]:
    """Messages by workflow; runs that are gone belong to none any more, and all are told."""
    messages: dict[str | None, dict[str, Any]] = {room: {"runs": [], "gone": gone} for room in rooms}
    for row in rows:
        for workflow in {None, row["workflow"]} & messages.keys():
            messages[workflow]["runs"].append(row)
    return {workflow: message for workflow, message in messages.items() if message["runs"] or gone}

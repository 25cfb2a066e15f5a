"""Rooms `workspace` and `workflow:NAME`: who is in them, and who could not take a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from webserver.live.feed import CONGESTED_AGAIN, PACE, Outlet, Read

WORKSPACE = "workspace"


def room_of(workflow: str | None) -> str:
    """The room of a workflow, or of the whole workspace."""
    return WORKSPACE if workflow is None else f"workflow:{workflow}"


@dataclass(slots=True)
class Audience(ABC):
    """A workspace that somebody watches; what is to be told there is for the feed to add."""

    rooms: dict[str | None, set[str]] = field(default_factory=dict)  #: Sockets by workflow; None: all workflows.
    stale: set[tuple[str | None, str]] = field(default_factory=set)  #: Rooms and sockets that missed a message.
    look: bool = True  #: Whether something may have changed without a notification.
    sent: float = 0.0  #: Monotonic clock.

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether there may be something to tell."""


A = TypeVar("A", bound=Audience)


class AudienceFeed(ABC, Generic[A]):
    """A feed of these rooms: a client that missed a message is told to read anew, as soon as it takes one."""

    event: ClassVar[str]
    audience: type[A]

    def __init__(self, read: Read, outlet: Outlet) -> None:
        self._read = read
        self._outlet = outlet
        self._workspaces: dict[int, A] = {}

    def join(self, sid: str, workspace: int, workflow: str | None) -> None:
        """A socket wants the changes from now on; what it shows it reads after this."""
        if workspace not in self._workspaces:
            self._workspaces[workspace] = self.audience()
        self._workspaces[workspace].rooms.setdefault(workflow, set()).add(sid)

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

    def look(self) -> None:
        """Look for what changed without a notification."""
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

    @abstractmethod
    def _tell(self, workspace: int, watched: A) -> None:
        """Read what there is to tell, and send it."""

    def _comfort(self, watched: A) -> None:
        """Those who missed a message and can take one now are told to read their list anew."""
        for workflow, sid in [each for each in watched.stale if not self._outlet.congested(each[1])]:
            watched.stale.discard((workflow, sid))
            self._outlet.send(self.event, {"room": room_of(workflow), "reset": True}, [sid])

    def _reset_all(self, watched: A) -> None:
        """Too much has happened to tell."""
        self._send_all(watched, {workflow: {"reset": True} for workflow in watched.rooms})

    def _send_all(self, watched: A, messages: Mapping[str | None, Mapping[str, Any]]) -> None:
        for workflow, message in messages.items():
            sids = watched.rooms[workflow]
            able = {sid for sid in sids if not self._outlet.congested(sid) and (workflow, sid) not in watched.stale}
            watched.stale.update((workflow, sid) for sid in sids - able)
            if able:
                self._outlet.send(self.event, {"room": room_of(workflow), **message}, able)

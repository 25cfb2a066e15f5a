"""What the feeds have in common: where they read, where they send, how often."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")

PACE = 0.1  #: Seconds between two messages of one room: what happens in between comes together.
CONGESTED_AGAIN = 0.25  #: Seconds until a room is looked at again for those who could not take more.

#: Positions by run (GONE: deleted); None: too many runs moved to name them.
Moved = Mapping[uuid.UUID, int] | None


class Read(Protocol):
    """Runs work in a transaction that sees one workspace."""

    def __call__(self, workspace: int, work: Callable[[Connection], T], /) -> T:
        """What `work` returns."""


class Outlet(Protocol):
    """The way to the clients."""

    def send(self, event: str, payload: Mapping[str, Any], sids: Collection[str]) -> None:
        """Put a message into these sockets' queues, in order; never waits."""

    def congested(self, sid: str) -> bool:
        """Whether a socket has not taken what it was sent: it gets nothing more before it has."""


class Feed(Protocol):
    """Tells the watchers of one kind of room what changed. All methods are called by the pump's thread alone."""

    def note(self, workspace: int, moved: Moved) -> None:
        """The database says that these runs of a workspace have moved."""

    def look(self) -> None:
        """Notifications may have been lost: look at everything that is watched."""

    def drop(self, sid: str) -> None:
        """A socket is gone."""

    def work(self, now: float) -> float | None:
        """Read and send what is due; seconds until there is more to do, None when only news can bring it.

        Raises:
            DBAPIError: The database failed; calling it again goes on where this stopped.
        """

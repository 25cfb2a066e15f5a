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
from webserver.live.audience import Audience, AudienceFeed
from webserver.live.feed import Moved


@dataclass(slots=True)
class WatchedRuns(Audience):
    """The runs of a workspace."""

    known: live.Known | None = None
    pending: set[uuid.UUID] = field(default_factory=set)  #: Runs that have moved and are not told.
    gone: list[str] = field(default_factory=list)  #: Those of them that were deleted.
    reset: bool = False  #: More has happened than can be told.

    @property
    def busy(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self.pending) or self.look or self.reset


class ListFeed(AudienceFeed[WatchedRuns]):
    """See the module."""

    event = "runs"
    audience = WatchedRuns

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

    def _tell(self, workspace: int, watched: WatchedRuns) -> None:
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
            self._reset_all(watched)
        elif watched.pending:
            pending = list(watched.pending)
            rows = self._read(workspace, partial(live.run_rows, workspace=workspace, runs=pending))
            watched.pending.difference_update(pending)
            if watched.known is not None:
                watched.known.tell(rows)
            gone, watched.gone = watched.gone, []
            self._send_all(watched, _by_room(rows, gone, watched.rooms))


def _by_room(
    rows: Iterable[Mapping[str, Any]], gone: Sequence[str], rooms: Collection[str | None]
) -> dict[str | None, dict[str, Any]]:
    """Messages by workflow; runs that are gone belong to none any more, and all are told."""
    messages: dict[str | None, dict[str, Any]] = {room: {"runs": [], "gone": gone} for room in rooms}
    for row in rows:
        for workflow in {None, row["workflow"]} & messages.keys():
            messages[workflow]["runs"].append(row)
    return {workflow: message for workflow, message in messages.items() if message["runs"] or gone}

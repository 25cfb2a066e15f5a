"""Rooms `workspace` and `workflow:NAME`: that a workflow was changed, paused, published or deleted.

A message says how it is now; what else a page shows of it is read from the API.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

from agentflow.catalog import changes
from webserver.live.audience import Audience, AudienceFeed
from webserver.live.feed import Moved


@dataclass(slots=True)
class WatchedWorkflows(Audience):
    """The workflows of a workspace."""

    known: changes.Known | None = None
    pending: set[str] = field(default_factory=set)  #: Names of those that have changed and are not told.

    @property
    def busy(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self.pending) or self.look


class DefinitionFeed(AudienceFeed[WatchedWorkflows]):
    """See the module."""

    event = "workflows"
    audience = WatchedWorkflows

    def note(self, workspace: int, moved: Moved) -> None:
        """Runs change no definition."""

    def changed(self, workspace: int, names: Collection[str] | None) -> None:
        """The database says that these workflows of a workspace were changed; None: too many to name them."""
        watched = self._workspaces.get(workspace)
        if watched is None:
            return
        if names is None:
            watched.look = True
        else:
            watched.pending.update(names)

    def _tell(self, workspace: int, watched: WatchedWorkflows) -> None:
        if watched.look:
            look = partial(changes.look_at_workflows, workspace=workspace, known=watched.known)
            found, watched.known = self._read(workspace, look)
            watched.look = False
            watched.pending.update(found)
        if not watched.pending:
            return
        names = set(watched.pending)
        rows, stamps = self._read(workspace, partial(changes.workflow_rows, workspace=workspace, names=names))
        watched.pending -= names
        if watched.known is not None:
            watched.known.tell(names, stamps)
        if len(names) > changes.NAMES_MAX:
            self._reset_all(watched)
            return
        gone = sorted(names - stamps.keys())
        for workflow in list(watched.rooms):
            message = {
                "workflows": [row for row in rows if workflow in (None, row["name"])],
                "gone": [name for name in gone if workflow in (None, name)],
            }
            if message["workflows"] or message["gone"]:
                self._send_all(watched, {workflow: message})

"""Where the feeds of runs read: each for itself, or one process for all of them (webserver.shared.turns)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from agentflow.runs import live
from webserver.live.feed import Read
from webserver.shared.turns import Turns, Wish

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What follows a position of a run."""

    after: int
    least: int | None  #: The position that it must reach to be of use to others; None: only the database knows.


class Changes(Protocol):
    """Reads changes of runs."""

    def __call__(
        self, workspace: int, wanted: Mapping[uuid.UUID, Wanted], /
    ) -> tuple[dict[uuid.UUID, Change], set[uuid.UUID]]:
        """Changes by run, and the runs of which another process is reading just that: ask again in a moment.

        Runs in neither are gone.
        """


class OwnChanges:
    """Everything from the database."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def __call__(
        self, workspace: int, wanted: Mapping[uuid.UUID, Wanted]
    ) -> tuple[dict[uuid.UUID, Change], set[uuid.UUID]]:
        """See `Changes`; nobody else is asked."""
        afters = {run: each.after for run, each in wanted.items()}
        return self._read(workspace, partial(live.run_changes, workspace=workspace, afters=afters)), set()


class SharedChanges:
    """What others have read, if it reaches as far as the database is known to be; the rest from the database."""

    def __init__(self, read: Read, turns: Turns) -> None:
        self._own = OwnChanges(read)
        self._turns = turns

    def __call__(
        self, workspace: int, wanted: Mapping[uuid.UUID, Wanted]
    ) -> tuple[dict[uuid.UUID, Change], set[uuid.UUID]]:
        """See `Changes`."""
        keys = {run: f"change:{workspace}:{run}" for run, each in wanted.items() if each.least is not None}
        turn = self._turns.take({key: _wish(key, run, wanted[run]) for run, key in keys.items()})
        found = {run: turn.found[key] for run, key in keys.items() if key in turn.found}
        elsewhere = {run for run, key in keys.items() if key in turn.elsewhere}
        rest = {run: each for run, each in wanted.items() if run not in found and run not in elsewhere}
        if rest:
            read, _ = self._own(workspace, rest)
            self._turns.give({keys[run]: change for run, change in read.items() if run in keys})
            found |= read
        return found, elsewhere


def _wish(key: str, run: uuid.UUID, wanted: Wanted) -> Wish:
    return Wish(f"{key}:{wanted.after}", partial(is_of_use, run=run, wanted=wanted))


def is_of_use(document: Any, run: uuid.UUID, wanted: Wanted) -> bool:
    """Whether it is a change of this run that begins at the position or before, and reaches far enough.

    Who hears of what it knows already takes no harm: the states are those at the end of the change.
    """
    if not isinstance(document, dict) or wanted.least is None:
        return False
    told, begin, end = (document.get(name) for name in ("run", "from", "seq"))
    return (
        isinstance(told, dict)
        and told.get("id") == str(run)
        and isinstance(begin, int)
        and isinstance(end, int)
        and begin <= wanted.after
        and wanted.least <= end
        and (isinstance(document.get("nodes"), list) or document.get("reset") is True)
    )

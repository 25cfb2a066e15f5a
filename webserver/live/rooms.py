"""Names of rooms, as clients write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agentflow.errors import UsageError

_NAME = re.compile(r"(?:workspace|(?P<kind>workflow|run|logs):(?P<rest>.{1,5000}))", re.DOTALL)
_LOGS = re.compile(r"(?P<run>[^/]+)/(?P<node>[^/]+)/(?P<attempt>[1-9]\d{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoomName:
    """What a client asked for; nothing says yet that it exists."""

    kind: Literal["workspace", "workflow", "run", "logs"]
    subject: str = ""  #: Name of the workflow, or id of the run.
    node: str = ""  #: Of `logs`: an address within the run.
    attempt: int = 0  #: Of `logs`.


def parse_room(text: str) -> RoomName:
    """Read `workspace`, `workflow:NAME`, `run:ID` or `logs:RUN/NODE/ATTEMPT`.

    Raises:
        UsageError: It is none of them.
    """
    found = _NAME.fullmatch(text)
    if found is not None:
        kind, rest = found["kind"], found["rest"]
        if kind is None:
            return RoomName("workspace")
        if kind == "workflow":
            return RoomName("workflow", rest)
        if kind == "run":
            return RoomName("run", rest)
        if logs := _LOGS.fullmatch(rest):
            return RoomName("logs", logs["run"], logs["node"], int(logs["attempt"]))
    raise UsageError(
        f"{text[:100]!r} is not a room.",
        hint="examples: workspace, workflow:nightly, run:0190a8f0-…, logs:0190a8f0-…/fetch[3]/1",
    )

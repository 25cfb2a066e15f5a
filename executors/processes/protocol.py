"""Kinds of the messages between executor and zygote; the bodies are JSON, see `zygote.py` and `zygote_link.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

FORK: Final = 16  #: To the zygote: {id, folder, lane}, with the runner's socket and token pipe as file descriptors.
SIGNAL: Final = 17  #: To the zygote: {id, signal}.
WATCH: Final = 18  #: To the zygote: {id, on, memory}: whether to look what the runner uses; memory in bytes or null.
FORKED: Final = 19  #: From the zygote: {id, pid}.
EXITED: Final = 20  #: From the zygote: {id, status, breach, sizes}, a line end, log area, rest of stdout, of stderr.


class Breach(StrEnum):
    """Which limit of its family a runner went over, so that it was killed."""

    MEMORY = "memory"
    PROCESSES = "processes"
    CPU = "cpu"

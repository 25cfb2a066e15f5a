"""Where the executors of this machine differ: how their processes are made, and how long they live."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from executors.processes.confinement import Confinement

#: Variables of libpq that may open the scheduler's database.
_CREDENTIALS: Final = frozenset({"PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE"})


def inherited_environment() -> dict[str, str]:
    """Our environment without AgentFlow's settings: the database's URL and keys are not for user code."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AGENTFLOW_") and name not in _CREDENTIALS
    }


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    """How an executor treats its runner processes; the defaults are warm ones."""

    name: str = "local"  #: For the thread and the log.
    one_attempt: bool = False  #: A process ends with its attempt; else it serves many of one (workspace, bundle).
    io_concurrency: int = 0  #: Attempts at once in I/O lanes, beside those in processes of their own; 0: no lanes.
    lazy: bool = False  #: The zygote starts with the first workload and ends when there has been none for a while.
    environment: Callable[[], dict[str, str]] = inherited_environment  #: Whole environment of zygote and runners.
    confinement: Confinement = field(default_factory=Confinement)  #: What is imposed on each new runner.

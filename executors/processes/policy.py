"""Where the executors of this machine differ: how their processes are made, and how long they live."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    """How an executor treats its runner processes; the defaults are warm ones."""

    name: str = "local"  #: For the thread and the log.
    one_attempt: bool = False  #: A process ends with its attempt; else it serves many of one (workspace, bundle).
    lazy: bool = False  #: The zygote starts with the first workload and ends when there has been none for a while.

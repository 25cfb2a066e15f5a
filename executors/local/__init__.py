"""Runs attempts in warm processes on this machine: each serves one (workspace, code bundle), one attempt after another.

Node types that only wait for the network share processes instead: the I/O lanes (`executors/processes/lanes.py`).
"""

from __future__ import annotations

from typing import Final

from executors.base import ExecutorContext
from executors.processes import ProcessExecutor, ProcessPolicy

__all__ = ["LocalExecutor"]

#: `AGENTFLOW_LOCAL_IO_CONCURRENCY` where no settings are read.
IO_CONCURRENCY: Final = 1024


class LocalExecutor(ProcessExecutor):
    """Warm processes, recycled when an attempt leaves something behind (see `executors.processes`)."""

    def __init__(self, context: ExecutorContext) -> None:
        concurrency = int(context.options.get("io_concurrency", IO_CONCURRENCY))
        super().__init__(context, ProcessPolicy(io_concurrency=concurrency))

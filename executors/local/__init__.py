"""Runs attempts in warm processes on this machine: each serves one (workspace, code bundle), one attempt after another."""

from __future__ import annotations

from executors.base import ExecutorContext
from executors.processes import ProcessExecutor, ProcessPolicy

__all__ = ["LocalExecutor"]


class LocalExecutor(ProcessExecutor):
    """Warm processes, recycled when an attempt leaves something behind (see `executors.processes`)."""

    def __init__(self, context: ExecutorContext) -> None:
        super().__init__(context, ProcessPolicy())

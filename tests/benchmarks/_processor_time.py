"""Processor time of processes: what a neighbour on the same cores changes least."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def processor_seconds(processes: Iterable[psutil.Process]) -> float:
    """Processor time that these processes have used so far, in user and kernel mode."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total

"""Processes below a runner, and how much memory they hold (Linux by /proc, elsewhere by psutil)."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_LINUX: Final = sys.platform.startswith("linux")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """Child processes of all threads of a process; empty when it is gone."""
    if not _LINUX:
        return []
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - sampled often
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found.extend(map(int, file.read().split()))
    return found


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    known = [pid]
    for member in known:  # grows while it is walked
        known.extend(child for child in children(member) if child not in known)
    return known


def group_memory(pid: int) -> int:
    """Bytes that a process and its descendants hold: resident size, pages shared between them counted once each."""
    if not _LINUX:
        return _by_psutil(pid)
    return sum(_proportional(member) for member in family(pid))


def group_resident(pid: int) -> int:
    """A cheap upper bound of `group_memory`."""
    if not _LINUX:
        return _by_psutil(pid)
    return sum(_resident(member) for member in family(pid))


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for want of memory; 0 when it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                events = Path(f"/sys/fs/cgroup{path}/memory.events").read_text().split()
                return int(events[events.index("oom_kill") + 1])
    return 0


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """PSS: pages shared by n processes count 1/n in each."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _by_psutil(pid: int) -> int:
    import psutil

    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += member.memory_info().rss
    return total

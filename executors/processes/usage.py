"""Processes below a runner, and what they use (Linux by /proc, elsewhere by psutil)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_LINUX: Final = sys.platform.startswith("linux")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = os.sysconf("SC_CLK_TCK")  # per second


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
    if not _LINUX:
        return [pid, *_descendants_by_psutil(pid)]
    known = [pid]
    seen = {pid}
    for member in known:  # grows while it is walked
        new = [child for child in children(member) if child not in seen]
        known.extend(new)
        seen.update(new)
    return known


def memory(members: Iterable[int]) -> int:
    """Bytes that processes hold: resident size, pages shared between them counted once each."""
    return sum(map(_proportional, members))


def resident(members: Iterable[int]) -> int:
    """A cheap upper bound of `memory`."""
    return sum(map(_resident, members))


def tasks(members: Iterable[int]) -> int:
    """Processes and their threads, as the kernel counts them."""
    return sum(map(_threads, members))


def cpu_seconds(members: Iterable[int]) -> float:
    """Processor time of processes and of their children that ended."""
    return sum(map(_cpu_seconds, members))


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
    if not _LINUX:
        return int(_by_psutil(pid, "rss"))
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


def _threads(pid: int) -> int:
    if not _LINUX:
        return int(_by_psutil(pid, "threads"))
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - sampled often
    return 0


def _cpu_seconds(pid: int) -> float:
    if not _LINUX:
        return _by_psutil(pid, "cpu")
    with suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        # After the name, which may hold anything: state is field 3; utime, stime, cutime, cstime are 14 to 17.
        fields = file.read().rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK
    return 0.0


def _descendants_by_psutil(pid: int) -> list[int]:
    import psutil

    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def _by_psutil(pid: int, what: str) -> float:
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if what == "rss":
            return float(process.memory_info().rss)
        return float(process.num_threads()) if what == "threads" else float(sum(process.cpu_times()[:4]))
    return 0.0

"""What the zygote imposes on each new runner: its folder, its limits, its user. Nothing of it can be undone there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_LINUX: Final = sys.platform.startswith("linux")
#: Seconds of processor time by which the kernel's limit is above ours: it ends one process, ours the whole attempt.
_CPU_SLACK: Final = 2
_CPU_GRACE: Final = 5  # seconds of processor time between SIGXCPU, which can be caught, and SIGKILL
_OOM_SCORE: Final = 300  # runners die before the scheduler when the machine runs out of memory
_PDEATHSIG, _SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38  # of prctl(2)


@dataclass(frozen=True, slots=True)
class Confinement:
    """None: no limit of ours. Limits of the family (the runner and all that it starts) are watched from outside."""

    uid: int | None = None  #: Whom to run as; only root can.
    gid: int = 0  #: With `uid`.
    groups: tuple[int, ...] = ()  #: With `uid`: supplementary groups.
    nice: int = 0
    open_files: int | None = None  #: Of each process.
    file_size: int | None = None  #: Bytes of each file written.
    cpu_seconds: int | None = None  #: Of processor time: of each process by the kernel, of the family watched.
    processes: int | None = None  #: Processes and threads of the family.
    user_processes: int | None = None  #: Processes and threads of all that runs as `uid`, by the kernel.
    core_files: bool = True  #: Whether a crash may write a core file, which may hold secrets.
    private_folders: bool = False  #: Whether working directory and TMPDIR are folders inside the runner's own.

    @property
    def watched(self) -> bool:
        """Whether the zygote has to look at every attempt."""
        return self.processes is not None or self.cpu_seconds is not None

    def as_document(self) -> dict[str, Any]:
        """For `from_document`, through JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Confinement:
        """The same again."""
        return cls(**document | {"groups": tuple(document["groups"])})

    def impose(self, folder: Path) -> Path:
        """Confine this process, a new runner that is its session's leader; returns its working directory.

        Raises:
            OSError: Something is not allowed; the process must not go on.
        """
        prefer_as_oom_victim()
        work_dir = self._make_folders(folder)
        if self.nice:
            os.nice(self.nice)
        self._limit()
        if self.uid is not None:
            self._change_user(self.uid)
        die_with_parent()  # after the change of user, which forgets it
        return work_dir

    def _make_folders(self, folder: Path) -> Path:
        folders = [folder]
        if self.private_folders:
            folders += [folder / "work", folder / "tmp"]
            os.environ["TMPDIR"] = str(folder / "tmp")
        for path in folders:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.uid is not None:
                os.chown(path, self.uid, self.gid)
        return folder / "work" if self.private_folders else folder

    def _limit(self) -> None:
        for name, limit in (("NOFILE", self.open_files), ("FSIZE", self.file_size), ("NPROC", self.user_processes)):
            if limit is not None:
                _lower(getattr(resource, f"RLIMIT_{name}"), limit, limit)
        if not self.core_files:
            _lower(resource.RLIMIT_CORE, 0, 0)
        if self.cpu_seconds is not None:
            soft = self.cpu_seconds + _CPU_SLACK
            _lower(resource.RLIMIT_CPU, soft, soft + _CPU_GRACE)

    def _change_user(self, uid: int) -> None:
        for stream in (1, 2):
            os.fchown(stream, uid, self.gid)  # so that /dev/stdout can be opened
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(uid)
        _prctl(_NO_NEW_PRIVS, 1)  # no way back by programs such as sudo


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies (Linux)."""
    _prctl(_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies (Linux)."""
    _prctl(_SUBREAPER, 1)


def prefer_as_oom_victim() -> None:
    """Let the kernel choose this process rather than the scheduler."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _lower(kind: int, soft: int, hard: int) -> None:
    """Set a limit, hard limit too, unless the one we have is lower already."""
    _, now = resource.getrlimit(kind)
    if now != resource.RLIM_INFINITY:
        soft, hard = min(soft, now), min(hard, now)
    resource.setrlimit(kind, (soft, hard))


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        _LIBC.prctl(option, value, 0, 0, 0)


_LIBC: Final = ctypes.CDLL(None, use_errno=True)

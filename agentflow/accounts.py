"""Accounts of the operating system that processes of ours run as, when it is not our own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Owner of the embedded Postgres and its data when AgentFlow runs as root (ENGINE 14). Node code never runs as this user.
POSTGRES_USER: Final = "nobody"
RUN_TIMEOUT: Final = 120  # seconds; initdb on a slow disk


@dataclass(frozen=True, slots=True)
class Account:
    """Whose rights some processes of ours have."""

    uid: int
    gid: int
    switch: bool  #: Whether we are root and must change to it.
    groups: tuple[int, ...] = ()  #: Supplementary groups.

    def own(self, path: Path) -> None:
        """Make this account the owner of a file or folder of ours."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a short command as this account, with a small fixed environment and `/` as working directory."""
        if self.switch:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": self.groups}
        return subprocess.run(
            [str(part) for part in command],
            check=False,
            text=True,
            errors="replace",
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},  # no PGDATA, PGOPTIONS or secrets of ours
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not for Postgres
            timeout=RUN_TIMEOUT,
            **options,
        )

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may reach what lies in the folder: asked of the kernel, so ACLs count too."""
        if not self.switch:
            return os.access(folder, os.X_OK)
        return self.run(["/bin/sh", "-c", 'test -x "$0/."', folder]).returncode == 0

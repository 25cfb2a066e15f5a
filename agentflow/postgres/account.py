"""The operating system account Postgres runs as: ours, or an unprivileged one when we are root (Postgres refuses root)."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.errors import SettingsError

#: Owner of the embedded data when AgentFlow runs as root. Node code is never run as this user.
UNPRIVILEGED = "nobody"
RUN_TIMEOUT = 120  # seconds; initdb on a slow disk


@dataclass(frozen=True, slots=True)
class Account:
    """Whose rights the server's processes have."""

    uid: int
    gid: int
    switch: bool  #: Whether we are root and must change to it.

    def own(self, path: Path) -> None:
        """Make this account the owner of a file or folder of ours."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a short command as this account, with a small fixed environment and `/` as working directory."""
        if self.switch:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
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


def server_account() -> Account:
    """The account for the server's processes.

    Raises:
        SettingsError: The system does not know it by name, which Postgres insists on.
    """
    own = os.geteuid()
    try:
        entry = pwd.getpwnam(UNPRIVILEGED) if own == 0 else pwd.getpwuid(own)
    except KeyError as error:
        who = f"named {UNPRIVILEGED}" if own == 0 else f"with the id {own}"
        raise SettingsError(
            f"The embedded Postgres cannot run: this system has no user {who}",
            hint="add one to /etc/passwd, or set AGENTFLOW_DATABASE_URL to a server of your own",
        ) from error
    return Account(entry.pw_uid, entry.pw_gid, switch=own == 0)

"""What `AGENTFLOW_SUBPROCESS_*` says, checked."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from agentflow.accounts import POSTGRES_USER, Account
from agentflow.errors import SettingsError
from agentflow.nodes.process import passed_on
from executors.processes.confinement import Confinement

_PREFIX: Final = "AGENTFLOW_"
_USER: Final = "AGENTFLOW_SUBPROCESS_USER"


@dataclass(frozen=True, slots=True)
class RunAs:
    """A user whom attempts run as."""

    name: str
    home: str
    account: Account


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of the executor; 0 and empty: no limit, no change."""

    run_as: RunAs | None = None
    nice: int = 0
    environment: tuple[str, ...] = ()  #: Names passed on besides the allow-list.
    memory: int = 0  #: Bytes, for nodes that name none.
    cpu_seconds: int = 0
    max_processes: int = 0
    max_open_files: int = 0
    max_file_size: int = 0  #: Bytes.

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From `ExecutorContext.options`; what is not there is not limited.

        Raises:
            SettingsError: The user or a variable cannot be used.
        """
        numbers = ("nice", "memory", "cpu_seconds", "max_processes", "max_open_files", "max_file_size")
        return cls(
            run_as=find_user(str(given.get("user", ""))),
            environment=_names(str(given.get("environment", ""))),
            **{name: int(given.get(name, 0)) for name in numbers},
        )

    def confinement(self, parallelism: int) -> Confinement:
        """What is imposed on each process when so many attempts run at once."""
        account = self.run_as.account if self.run_as else None
        return Confinement(
            uid=account.uid if account else None,
            gid=account.gid if account else 0,
            groups=account.groups if account else (),
            nice=self.nice,
            open_files=self.max_open_files or None,
            file_size=self.max_file_size or None,
            cpu_seconds=self.cpu_seconds or None,
            processes=self.max_processes or None,
            # The kernel counts per user, not per attempt: only a user that runs nothing else can be limited by it.
            user_processes=self.max_processes * parallelism or None if account else None,
            core_files=False,
            private_folders=True,
        )

    def variables(self) -> dict[str, str]:
        """The whole environment of an attempt's process, but for TMPDIR."""
        kept = passed_on(os.environ) | {name: os.environ[name] for name in self.environment if name in os.environ}
        if self.run_as is not None:
            kept |= {"HOME": self.run_as.home, "USER": self.run_as.name, "LOGNAME": self.run_as.name}
        return kept


def find_user(name: str) -> RunAs | None:
    """The user of this name, None for the empty one.

    Raises:
        SettingsError: There is no such user, or attempts must not run as it, or we may not change to it.
    """
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise SettingsError(f"{_USER}: there is no user {name!r}", hint="make one: useradd --system NAME") from error
    if os.geteuid() != 0:
        raise SettingsError(
            f"{_USER}: only root can run nodes as another user",
            hint="leave it empty, or start the scheduler as root",
        )
    if entry.pw_uid == 0:
        raise SettingsError(f"{_USER}: {name!r} is root", hint="name an unprivileged user")
    if entry.pw_uid == _postgres_uid():
        raise SettingsError(
            f"{_USER}: {name!r} owns the data of the embedded Postgres, which nodes must not read",
            hint="make a user of its own: useradd --system NAME",
        )
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return RunAs(name, entry.pw_dir, Account(entry.pw_uid, entry.pw_gid, switch=True, groups=groups))


def _postgres_uid() -> int | None:
    try:
        return pwd.getpwnam(POSTGRES_USER).pw_uid
    except KeyError:  # then no embedded Postgres runs here either
        return None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    ours = [name for name in names if name.startswith(_PREFIX)]
    if ours:
        raise SettingsError(
            f"AGENTFLOW_SUBPROCESS_ENVIRONMENT: {', '.join(ours)} may hold credentials of AgentFlow, which are not "
            "for nodes",
            hint="pass values to nodes as params, variables or secrets",
        )
    return names

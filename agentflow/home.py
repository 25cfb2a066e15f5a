"""The home folder: made with care for who may enter it, and small private files in it."""

from __future__ import annotations

import os
from pathlib import Path

from agentflow.errors import SettingsError

_HINT = "set AGENTFLOW_HOME to a folder of yours"


def make_home(home: Path) -> None:
    """Make the home and its missing parents; what exists keeps its rights.

    Raises:
        SettingsError: It cannot be made, or we may not write to it.
    """
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    # As root the embedded server's unprivileged account must be able to pass through.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
    except OSError as error:
        raise SettingsError(f"AGENTFLOW_HOME: {home} cannot be made: {error.strerror}", hint=_HINT) from error
    if not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
        raise SettingsError(f"AGENTFLOW_HOME: {home} is not a folder you may write to", hint=_HINT)


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

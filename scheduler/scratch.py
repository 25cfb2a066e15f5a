"""A scheduler's scratch folder; one that a killed scheduler left behind is removed by the next that starts."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from agentflow.locks import FileLock

_PREFIX: Final = "agentflow-scheduler-"
_LOCK: Final = "alive"  # a file in the folder, locked as long as its scheduler lives
_YOUNG: Final = 60.0  # seconds; a folder this new may not be locked yet


class Scratch:
    """A folder below the system's temporary one, held by a lock that ends with this process."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.path.chmod(0o711)  # attempts may run as another user; each executor's own folder is closed
        self._lock = FileLock(self.path / _LOCK)
        self._lock.acquire("exclusive", timeout=0)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = FileLock(folder / _LOCK)
            if time.time() - found.st_mtime > _YOUNG and lock.try_acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
        except OSError:  # another scheduler was faster
            continue

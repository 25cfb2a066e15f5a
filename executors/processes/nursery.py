"""The zygote and the runners that it makes, as the engine uses them; brings the zygote back when it dies."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from executors.base import ExecutorContext
from executors.processes.handle import Handle
from executors.processes.io_loop import IoLoop
from executors.processes.policy import ProcessPolicy
from executors.processes.zygote_link import Exited, Forked, ZygoteLink

log: Final = logging.getLogger(__name__)

_RESTART_FIRST: Final = 0.05  # seconds before the first restart of the zygote; doubles
_RESTART_MAX: Final = 5.0  # seconds
_HOPELESS: Final = 5  # zygotes that died one after the other without having made a process
_END_MAX: Final = 3.0  # seconds that a zygote may take to end


class Nursery:
    """Belongs to the I/O thread."""

    def __init__(
        self,
        context: ExecutorContext,
        policy: ProcessPolicy,
        loop: IoLoop,
        *,
        on_exit: Callable[[Handle, Exited], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`on_exit` hears of each runner that is gone, `on_lost` of the zygote's death, which takes all of them."""
        self._context = context
        self._policy = policy
        self._loop = loop
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._link: ZygoteLink | None = None
        self._wanted: dict[int, Handle] = {}  # runners asked for and not gone
        self._deaths = 0  # of zygotes, one after the other
        self._resting = False  # between the death of a zygote and the next one
        self._closed = False

    @property
    def hopeless(self) -> bool:
        """Whether one zygote after the other dies before it has made a process."""
        return self._deaths >= _HOPELESS

    def fork(self, handle: Handle) -> None:
        """Make its process; a zygote that does not run yet is started for it."""
        self._wanted[handle.id] = handle
        if self._link is not None:
            self._link.fork(handle, self._folder(handle))
        elif not self._resting:
            self._connect()

    def signal(self, handle: Handle, number: int) -> None:
        """Send a signal to the group of a runner that is not gone."""
        if self._link is not None and self._wanted.get(handle.id) is handle:
            self._link.signal(handle, number)

    def watch(self, handle: Handle, memory: int | None) -> None:
        """Look what the runner uses from now on, if anything of it is limited."""
        if self._link is not None and (memory is not None or self._policy.confinement.watched):
            handle.watched = True
            self._link.watch(handle, on=True, memory=memory)

    def unwatch(self, handle: Handle) -> None:
        """Stop looking."""
        if self._link is not None and handle.watched:
            handle.watched = False
            self._link.watch(handle, on=False)

    def discard(self, handle: Handle) -> None:
        """Forget a runner: it is gone, or about to end by itself."""
        self._wanted.pop(handle.id, None)
        self._loop.unwatch(handle.sock)
        handle.close()
        self._clean(handle)

    def kill_orphan(self, handle: Handle) -> None:
        """Kill the group of a runner whose zygote has died."""
        if handle.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(handle.pid, signal.SIGKILL)

    def rest(self) -> None:
        """End the zygote until the next `fork`; there must be no runner."""
        if self._link is not None:
            self._loop.unwatch(self._link.sock)
            self._link.close(_END_MAX)
            self._link = None

    def close(self) -> None:
        """End the zygote, and with it all runners, for ever."""
        self._closed = True
        self.rest()

    def _connect(self) -> None:
        self._resting = False
        if self._closed or self._link is not None:
            return
        self._link = ZygoteLink(self._context.bundles_dir, self._policy)
        self._loop.watch(self._link.sock, self._on_report)
        for handle in self._wanted.values():
            self._link.fork(handle, self._folder(handle))

    def _on_report(self) -> None:
        assert self._link is not None
        reports = self._link.receive()
        if reports is None:
            self._on_death()
            return
        self._deaths = 0
        for report in reports:
            handle = self._wanted.get(report.id)
            if handle is None:
                continue
            if isinstance(report, Forked):
                handle.pid = report.pid
            else:
                self._on_exit(handle, report)

    def _on_death(self) -> None:
        log.warning("zygote_lost", extra={"executor": self._policy.name, "deaths": self._deaths})
        self.rest()
        self._resting = True
        delay = min(_RESTART_MAX, _RESTART_FIRST * 2**self._deaths) if self._deaths else 0.0
        self._deaths += 1
        self._on_lost()
        self._loop.call_at(time.monotonic() + delay, self._connect)

    def _folder(self, handle: Handle) -> Path:
        return self._context.work_dir / f"process-{handle.id}"

    def _clean(self, handle: Handle) -> None:
        """Remove the runner's folder; large leftovers must not hold up the loop."""
        folder = self._folder(handle)
        try:
            if self._policy.confinement.private_folders:
                for part in ("tmp", "work"):
                    (folder / part).rmdir()
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            threading.Thread(target=remove_tree, args=(folder,), daemon=True).start()


def remove_tree(folder: Path) -> None:
    """Remove a folder whatever rights its owner, if that is us, took away from himself."""
    if os.geteuid() != 0:  # root needs no rights, and must not change those of what a link might lead to
        for parent, _, _ in os.walk(folder):
            with suppress(OSError):
                for entry in os.scandir(parent):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)  # noqa: PTH101 - before os.walk looks into it
    shutil.rmtree(folder, ignore_errors=True)

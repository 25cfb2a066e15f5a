"""The parent of all runner processes: `python -m executors.processes.zygote`.

Single-threaded on purpose, so that forking is safe, with everything imported that a runner needs, so that a new runner
is there in milliseconds. It forks on request, signals on request, watches memory where asked to, reaps, and reports
each end with what the dead process had not delivered. When the executor goes away it kills all that is left.

Runners are sessions of their own. A process that leaves its runner's session is still killed with it: runners and
zygote are child subreapers (Linux), so it becomes the zygote's child at the latest when its runner dies.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from agentflow.errors import AgentFlowError
from agentflow.nodes import registry
from agentflow.runner import wire
from agentflow.runner.logs import AREA_SIZE, used_area
from executors.processes import memory
from executors.processes.protocol import EXITED, FORK, FORKED, SIGNAL, WATCH
from executors.processes.worker import Equipment, serve

_LINUX: Final = sys.platform.startswith("linux")
_SAMPLE: Final = 0.25  # seconds between looks at the memory of watched runners
_REST_MAX: Final = 64 * 1024  # bytes read from the pipe of a dead runner
_PIPE_SIZE: Final = 1024 * 1024  # bytes; C code that prints while it holds the GIL cannot be drained meanwhile
_OOM_SCORE: Final = 300  # runners die before the scheduler when the machine runs out of memory
_PRELOAD: Final = ("agentflow.templates.compiled", "asyncio", "base64", "logging")
_NODE_TYPES: Final = ("noop", "python", "shell", "template")


@dataclass(slots=True)
class Child:
    """One runner process."""

    id: int
    pid: int
    area: mmap.mmap
    pipes: dict[str, int]
    limit: int | None = None  #: Bytes above `baseline`.
    baseline: int = 0
    killed_for_memory: bool = False
    signalled: bool = False  #: Whether a SIGKILL came from us.


class Zygote:
    """The loop."""

    def __init__(self, control: socket.socket, bundles_dir: Path) -> None:
        self._control = control
        self._bundles_dir = bundles_dir
        self._frames = wire.FrameReader()
        self._fds: list[int] = []
        self._children: dict[int, Child] = {}  # by pid
        self._by_id: dict[int, Child] = {}
        self._oom_kills = memory.oom_kills()
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def run(self) -> None:
        """Serve until the executor closes the control socket."""
        signal.signal(signal.SIGCHLD, _wake_only)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            watching = any(child.limit is not None for child in self._children.values())
            for fd, _ in poll.poll(_SAMPLE * 1000 if watching else None):
                if fd == self._wake_read:
                    with suppress(BlockingIOError):
                        os.read(fd, 4096)
                elif not self._receive():
                    self._end_all()
                    return
            self._reap()
            if watching:
                self._check_memory()

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 64 * 1024, 64)
        except ConnectionResetError:  # it was killed before it had read everything
            return False
        self._fds.extend(fds)
        for kind, body in self._frames.feed(data):
            message = json.loads(body)
            if kind == FORK:
                self._fork(message)
            elif (child := self._by_id.get(message["id"])) is None:
                continue
            elif kind == SIGNAL:
                child.signalled |= message["signal"] == signal.SIGKILL
                _signal_group(child.pid, message["signal"])
            elif kind == WATCH:
                child.limit = message["limit"]
                child.baseline = memory.group_memory(child.pid) if child.limit is not None else 0
        return bool(data)

    def _fork(self, message: dict[str, Any]) -> None:
        sock_fd, token_fd = self._fds.pop(0), self._fds.pop(0)
        area = mmap.mmap(-1, AREA_SIZE)
        out_read, out_write = _pipe()
        err_read, err_write = _pipe()
        pid = os.fork()
        if pid == 0:
            self._become_runner(
                Equipment(
                    sock=socket.socket(fileno=sock_fd),
                    token_fd=token_fd,
                    area=area,
                    pipes={"stdout": out_read, "stderr": err_read},
                    work_dir=Path(message["work_dir"]),
                    bundles_dir=self._bundles_dir,
                ),
                out_write,
                err_write,
            )
        with suppress(OSError):
            os.setpgid(pid, pid)  # so that a signal sent right now finds the group
        for fd in (sock_fd, token_fd, out_write, err_write):
            os.close(fd)
        child = Child(message["id"], pid, area, {"stdout": out_read, "stderr": err_read})
        self._children[pid] = self._by_id[child.id] = child
        self._send(FORKED, {"id": child.id, "pid": pid})

    def _become_runner(self, equipment: Equipment, out: int, err: int) -> None:
        """In the new process; never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with suppress(OSError):
                os.setsid()
            _die_with_parent()
            _adopt_orphans()
            _prefer_as_oom_victim()
            for fd, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
                os.dup2(fd, target)
                os.close(fd)
            self._forget()
            equipment.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _hide_our_packages()
            serve(equipment)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may return into the zygote's loop
            import traceback

            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        finally:
            os._exit(code)

    def _forget(self) -> None:
        """Close what belongs to the zygote and to other runners."""
        self._control.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        for fd in self._fds:
            os.close(fd)
        for child in self._children.values():
            child.area.close()
            for fd in child.pipes.values():
                os.close(fd)
        self._children.clear()
        self._by_id.clear()

    def _reap(self) -> None:
        while pid := _ended_child():
            child = self._children.pop(pid, None)
            if child is not None:
                # While the leader is not reaped yet its number cannot belong to another group.
                _signal_group(child.pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if child is not None:
                self._kill_orphans()
                self._report(child, status)

    def _kill_orphans(self) -> None:
        """Processes that left a dead runner's group are our children now."""
        while orphans := [pid for pid in memory.children(os.getpid()) if pid not in self._children]:
            for pid in orphans:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _report(self, child: Child, status: int) -> None:
        del self._by_id[child.id]
        blobs = [used_area(child.area), *(_rest(child.pipes[stream]) for stream in ("stdout", "stderr"))]
        child.area.close()
        for fd in child.pipes.values():
            os.close(fd)
        document = {
            "id": child.id,
            "status": status,
            "oom": child.killed_for_memory or (self._killed_by_kernel(status) and not child.signalled),
            "sizes": [len(blob) for blob in blobs],
        }
        self._send(EXITED, document, b"".join(blobs))

    def _killed_by_kernel(self, status: int) -> bool:
        before, self._oom_kills = self._oom_kills, memory.oom_kills()
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and self._oom_kills > before

    def _check_memory(self) -> None:
        for child in self._children.values():
            if child.limit is None or child.killed_for_memory:
                continue
            allowed = child.limit + child.baseline
            if memory.group_resident(child.pid) > allowed and memory.group_memory(child.pid) > allowed:
                child.killed_for_memory = True
                _signal_group(child.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        for pid in list(self._children):
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._children.clear()
        self._kill_orphans()

    def _send(self, kind: int, document: dict[str, Any], blob: bytes = b"") -> None:
        body = json.dumps(document).encode() + b"\n" + blob
        with suppress(OSError):  # the executor is gone; the next read says so
            self._control.sendall(wire.frame(kind, body))


def _wake_only(number: int, frame: FrameType | None) -> None:
    """Handler of SIGCHLD: its point is the byte that Python writes to the wake-up pipe."""


def _ended_child() -> int:
    """A child that ended and is not reaped yet; 0 without one."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return ended.si_pid if ended is not None else 0


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS denies signals to groups of zombies
        os.killpg(pid, number)


def _rest(fd: int) -> bytes:
    """What a dead runner's pipe still holds."""
    os.set_blocking(fd, False)
    with suppress(OSError):
        return os.read(fd, _REST_MAX)
    return b""


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    if _LINUX:
        import fcntl

        with suppress(OSError):  # over the user's limit of pipe memory
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return read, write


def _die_with_parent() -> None:
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _adopt_orphans() -> None:
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        _LIBC.prctl(option, value, 0, 0, 0)


def _prefer_as_oom_victim() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _hide_our_packages() -> None:
    """User code sees its bundle and what is installed; `agentflow` stays importable, our other packages do not.

    A user's `executors.py` or `scheduler.py` must win over ours, and a checkout must not leak its `tests` or `dags`.
    """
    checkout = Path(__file__).resolve().parents[2]
    sys.path[:] = [entry for entry in sys.path if (entry and Path(entry).resolve() != checkout) or _is_site(entry)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "executors"]:
        del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")


def _is_site(entry: str) -> bool:
    return "site-packages" in Path(entry).parts or "dist-packages" in Path(entry).parts


def main() -> None:
    """Entry: the control socket's number and the bundles' folder are the arguments."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for name in _PRELOAD:
        importlib.import_module(name)
    for name in _NODE_TYPES:
        with suppress(AgentFlowError):  # the attempt that needs it reports it
            registry.literal_fields(name)
    _adopt_orphans()
    gc.collect()
    gc.freeze()  # what is loaded now stays shared with the runners
    Zygote(control, Path(sys.argv[2])).run()


_LIBC: Final = ctypes.CDLL(None, use_errno=True)

if __name__ == "__main__":
    main()

"""The parent of all runner processes: `python -m executors.processes.zygote`.

Single-threaded on purpose, so that forking is safe, with everything imported that a runner needs, so that a new runner
is there in milliseconds. It forks on request, signals on request, watches memory where asked to, reaps, and reports
each end with what the dead process had not delivered. When the executor goes away it kills all that is left.

Runners are sessions of their own. A process that leaves its runner's session is still killed with it: runners and
zygote are child subreapers (Linux), so it becomes the zygote's child at the latest when its runner dies.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from agentflow.errors import AgentFlowError
from agentflow.nodes import registry
from agentflow.runner import wire
from agentflow.runner.logs import AREA_SIZE, used_area
from executors.processes import usage
from executors.processes.confinement import Confinement, adopt_orphans
from executors.processes.lane import serve_lane
from executors.processes.protocol import EXITED, FORK, FORKED, SIGNAL, WATCH, Breach
from executors.processes.worker import Equipment, serve

_LINUX: Final = sys.platform.startswith("linux")
_SAMPLE: Final = 0.25  # seconds between looks at the memory of watched runners
_REST_MAX: Final = 64 * 1024  # bytes read from the pipe of a dead runner
_PIPE_SIZE: Final = 1024 * 1024  # bytes; C code that prints while it holds the GIL cannot be drained meanwhile
_PRELOAD: Final = ("agentflow.templates.compiled", "asyncio", "base64", "logging")
_NODE_TYPES: Final = ("noop", "python", "shell", "template")
_HIDDEN: Final[list[ModuleType]] = []


@dataclass(slots=True)
class Child:
    """One runner process."""

    id: int
    pid: int
    area: mmap.mmap
    pipes: dict[str, int]
    watched: bool = False  #: Whether to look what its family uses.
    memory: int | None = None  #: Bytes that the family may use above `baseline`.
    baseline: int = 0
    breach: Breach | None = None  #: Why we killed it.
    signalled: bool = False  #: Whether a SIGKILL came from us.


@dataclass(frozen=True, slots=True)
class Orders:
    """What the executor wants of all runners; the arguments of the process."""

    bundles_dir: Path
    one_attempt: bool
    confinement: Confinement


class Zygote:
    """The loop."""

    def __init__(self, control: socket.socket, orders: Orders) -> None:
        self._control = control
        self._orders = orders
        self._frames = wire.FrameReader()
        self._fds: list[int] = []
        self._children: dict[int, Child] = {}  # by pid
        self._by_id: dict[int, Child] = {}
        self._oom_kills = usage.oom_kills()
        self._next_look = 0.0  # `time.monotonic()`
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
            watching = any(child.watched for child in self._children.values())
            for fd, _ in poll.poll(_SAMPLE * 1000 if watching else None):
                if fd == self._wake_read:
                    with suppress(BlockingIOError):
                        os.read(fd, 4096)
                elif not self._receive():
                    self._end_all()
                    return
            self._reap()
            if watching and time.monotonic() >= self._next_look:
                self._look()

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
                child.watched, child.memory = message["on"], message["memory"]
                child.baseline = usage.memory(usage.family(child.pid)) if child.memory is not None else 0
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
                    work_dir=Path(message["folder"]),
                    bundles_dir=self._orders.bundles_dir,
                    one_attempt=self._orders.one_attempt,
                ),
                out_write,
                err_write,
                lane=message["lane"],
            )
        for fd in (sock_fd, token_fd, out_write, err_write):
            os.close(fd)
        child = Child(message["id"], pid, area, {"stdout": out_read, "stderr": err_read})
        self._children[pid] = self._by_id[child.id] = child
        self._send(FORKED, {"id": child.id, "pid": pid})

    def _become_runner(self, equipment: Equipment, out: int, err: int, *, lane: bool) -> None:
        """In the new process; never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            adopt_orphans()
            for fd, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
                os.dup2(fd, target)
                os.close(fd)
            self._forget()
            work_dir = self._orders.confinement.impose(equipment.work_dir)
            sys.dont_write_bytecode = True  # bundles are read-only, and nobody removes what is added to them
            (serve_lane if lane else serve)(replace(equipment, work_dir=work_dir))
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
        """Processes that left a dead runner's group are our children now; end them and all below them."""
        while orphans := [pid for pid in usage.children(os.getpid()) if pid not in self._children]:
            for pid in [member for orphan in orphans for member in usage.family(orphan)]:
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
            "breach": child.breach or (Breach.MEMORY if self._killed_by_kernel(status, child) else None),
            "sizes": [len(blob) for blob in blobs],
        }
        self._send(EXITED, document, b"".join(blobs))

    def _killed_by_kernel(self, status: int, child: Child) -> bool:
        """Whether memory ran out; a SIGKILL of ours is no evidence."""
        before, self._oom_kills = self._oom_kills, usage.oom_kills()
        by_kill = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return by_kill and not child.signalled and self._oom_kills > before

    def _look(self) -> None:
        """End the runners whose families use more than they may."""
        self._next_look = time.monotonic() + _SAMPLE
        for child in self._children.values():
            if child.watched and child.breach is None:
                child.breach = self._breach(child, usage.family(child.pid))
                if child.breach is not None:
                    _signal_group(child.pid, signal.SIGKILL)

    def _breach(self, child: Child, members: list[int]) -> Breach | None:
        confinement = self._orders.confinement
        if child.memory is not None:
            allowed = child.memory + child.baseline
            if usage.resident(members) > allowed and usage.memory(members) > allowed:
                return Breach.MEMORY
        if confinement.processes is not None and usage.tasks(members) > confinement.processes:
            return Breach.PROCESSES
        if confinement.cpu_seconds is not None and usage.cpu_seconds(members) > confinement.cpu_seconds:
            return Breach.CPU
        return None

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
    """Signal a runner and its group; it has none yet in the first moment of its life."""
    with suppress(ProcessLookupError, PermissionError):  # macOS denies signals to groups of zombies
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)


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


def _hide_our_packages() -> None:
    """User code sees its bundle and what is installed; `agentflow` stays importable, our other packages do not.

    A user's `executors.py` or `scheduler.py` must win over ours, and a checkout must not leak its `tests` or `dags`.
    """
    checkout = Path(__file__).resolve().parents[2]
    sys.path[:] = [entry for entry in sys.path if (entry and Path(entry).resolve() != checkout) or _is_site(entry)]
    ours = [name for name in sys.modules if name.partition(".")[0] in ("executors", "__main__")]
    # Kept alive: freeing them in each runner would cost as much as the rest of its start.
    _HIDDEN.extend(sys.modules.pop(name) for name in ours)
    sys.modules["__main__"] = ModuleType("__main__")


def _is_site(entry: str) -> bool:
    return "site-packages" in Path(entry).parts or "dist-packages" in Path(entry).parts


def main() -> None:
    """Entry: the arguments are the control socket's number and the orders as JSON."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    document = json.loads(sys.argv[2])
    for name in _PRELOAD:
        importlib.import_module(name)
    for name in _NODE_TYPES:
        with suppress(AgentFlowError):  # the attempt that needs it reports it
            registry.literal_fields(name)
    adopt_orphans()
    _hide_our_packages()
    gc.collect()
    gc.freeze()  # what is loaded now stays shared with the runners
    orders = Orders(
        Path(document["bundles_dir"]), document["one_attempt"], Confinement.from_document(document["confinement"])
    )
    Zygote(control, orders).run()


if __name__ == "__main__":
    main()

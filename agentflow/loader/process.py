"""The parent's side of reading a Python file: starts the child, bounds it, and reads what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentflow.errors import Problem
from agentflow.loader.protocol import RESULT_MARK, module_name

#: What a file may know of our environment: never a database URL, a key or a token.
ALLOWED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_START_ALLOWANCE = 10.0  # seconds for the interpreter itself to start on a busy machine
_REPLY_MAX = 64 * 2**20  # bytes
_PRINTED_MAX = 8 * 2**10  # bytes of what the file prints that are kept, from the end


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """Bounds of reading one Python file."""

    timeout: float = 30.0  #: Seconds, from the import's start.
    memory: int = 1024 * 2**20  #: Bytes of data.
    stopped: Callable[[], bool] = lambda: False  #: Asked now and then: whether nobody wants the answer any more.


DEFAULT_LIMITS = ChildLimits()
_ASK_EVERY = 0.25  # seconds between questions whether the answer is still wanted


class LoadInterrupted(Exception):
    """Nobody wants to know any more what the file holds."""


@dataclass(frozen=True, slots=True)
class ImportProblem:
    """Why a file, or one workflow of it, cannot be used. Data for the command line and the UI."""

    file: str  #: As the reader named it: relative to the DAG folder, or as on the command line.
    message: str
    line: int | None = None  #: 1-based.
    traceback: str | None = None  #: Only the frames of the user's code.
    column: int | None = None
    path: str = ""  #: Dotted path inside the spec, when the document is what is wrong.
    hint: str | None = None
    printed: str = ""  #: The end of what the file printed.

    def as_problem(self) -> Problem:
        """As an entry of a SpecError."""
        return Problem(self.message, path=self.path, line=self.line, column=self.column, hint=self.hint)


@dataclass(frozen=True, slots=True)
class FoundWorkflow:
    """A workflow of a Python file, drawn but not validated."""

    document: dict[str, Any]
    line: int | None  #: Of its decorator.
    lines: dict[str, int]  #: Where the body made each node.


@dataclass(frozen=True, slots=True)
class ChildReport:
    """What the child said."""

    workflows: tuple[FoundWorkflow, ...] = ()
    problems: tuple[ImportProblem, ...] = ()


@dataclass(slots=True)
class _Ended:
    """How the child ended and what it wrote."""

    status: int | None  #: None: we stopped it at the time limit.
    reply: bytes = b""
    printed: bytes = b""
    overflow: bool = False


@dataclass(slots=True)
class _Pipes:
    reply: int
    printed: int
    closed: set[int] = field(default_factory=set)


def read_python(path: Path, root: Path, limits: ChildLimits = DEFAULT_LIMITS) -> ChildReport:
    """Import a file in a child and collect its workflows. Takes at most the time limit and its start allowance.

    Raises:
        LoadInterrupted: `limits.stopped` said so.
    """
    path, root = path.absolute(), root.absolute()  # the child works in another folder
    relative = path.relative_to(root).as_posix()
    try:
        module_name(relative)
    except ValueError as error:
        return ChildReport(problems=(ImportProblem(relative, str(error)),))
    ended = _run_child(path, root, limits)
    return _interpret(ended, path, relative, limits)


def _run_child(path: Path, root: Path, limits: ChildLimits) -> _Ended:
    reply_read, reply_write = os.pipe()
    life_read, life_write = os.pipe()  # its end tells the child that we are gone
    request = {
        "file": str(path), "root": str(root), "reply": reply_write, "life": life_read,
        "timeout": limits.timeout, "memory": limits.memory,
    }  # fmt: skip
    # An empty working directory: a file that reads `data.csv` relative to it would work here and fail in a run.
    scratch = tempfile.mkdtemp(prefix="agentflow-load-")
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "agentflow.loader.child", json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=_environment(),
            pass_fds=(reply_write, life_read),
            start_new_session=True,
        ) as child:
            os.close(reply_write)
            os.close(life_read)
            reply_write = life_read = -1
            assert child.stdout is not None
            try:
                pipes = _Pipes(reply_read, child.stdout.fileno())
                return _follow(child, pipes, limits.timeout + _START_ALLOWANCE, limits.stopped)
            finally:
                _kill_group(child)
    finally:
        for pipe in (reply_read, reply_write, life_read, life_write):
            if pipe >= 0:
                os.close(pipe)
        shutil.rmtree(scratch, ignore_errors=True)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ALLOWED_ENVIRONMENT if name in os.environ}
    # The order of a set must not change from one reading to the next: that would make new versions of nothing.
    return kept | {"PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONUNBUFFERED": "1"}


def _follow(child: subprocess.Popen[bytes], pipes: _Pipes, seconds: float, stopped: Callable[[], bool]) -> _Ended:
    """Read both pipes until the child closes its reply or the time is over; keep bounded amounts."""
    ended = _Ended(None)
    deadline = time.monotonic() + seconds
    reply = bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe in (pipes.reply, pipes.printed):
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ)
        while pipes.reply not in pipes.closed and (left := deadline - time.monotonic()) > 0 and not ended.overflow:
            if stopped():
                raise LoadInterrupted
            for key, _ in selector.select(min(left, _ASK_EVERY)):
                chunk = _read(key.fd)
                if chunk == b"":
                    selector.unregister(key.fd)
                    pipes.closed.add(key.fd)
                elif key.fd == pipes.reply:
                    reply += chunk or b""
                    ended.overflow = len(reply) > _REPLY_MAX
                else:
                    ended.printed = (ended.printed + (chunk or b""))[-_PRINTED_MAX:]
    ended.reply = bytes(reply)
    if pipes.reply in pipes.closed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended.status = child.wait(timeout=max(1.0, deadline - time.monotonic()))
    if pipes.printed not in pipes.closed:
        ended.printed = (ended.printed + (_read(pipes.printed) or b""))[-_PRINTED_MAX:]
    return ended


def _read(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, 2**16)
    except BlockingIOError:
        return None


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; its session is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _interpret(ended: _Ended, path: Path, file: str, limits: ChildLimits) -> ChildReport:
    faults, mark, text = ended.reply.rpartition(RESULT_MARK)
    if ended.overflow:
        faults, mark = b"", b""
    printed = ended.printed.decode("utf-8", errors="replace")
    if mark:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return _read_reply(json.loads(text), file, printed)
    dump = (faults if mark else ended.reply).decode("utf-8", errors="replace")[:20_000]
    message, hint = _why_no_reply(ended, dump, limits)
    line = _line_in(dump, path)
    return ChildReport(
        problems=(ImportProblem(file, message, line=line, hint=hint, traceback=dump or None, printed=printed),)
    )


def _read_reply(reply: dict[str, Any], file: str, printed: str) -> ChildReport:
    workflows = tuple(FoundWorkflow(item["document"], item["line"], item["lines"]) for item in reply["workflows"])
    problems = tuple(ImportProblem(file=file, printed=printed, **item) for item in reply["problems"])
    return ChildReport(workflows, problems)


def _why_no_reply(ended: _Ended, dump: str, limits: ChildLimits) -> tuple[str, str | None]:
    if ended.overflow:
        return f"its workflows are larger than {_REPLY_MAX // 2**20} MB", "make smaller workflows"
    if dump.startswith("Timeout (") or ended.status is None:
        return (
            f"importing it did not end within {limits.timeout:g} s",
            "move slow work into a @node function; the top level of the file only draws the graph",
        )
    if ended.status < 0:
        name = signal.Signals(-ended.status).name if -ended.status in set(signal.Signals) else str(-ended.status)
        return f"importing it ended the Python process with {name}", "a native module crashed, or memory ran out"
    return (
        f"importing it ended the Python process with exit code {ended.status}",
        "the file, or a module that it imports, calls os._exit or closes files that are not its own",
    )


def _line_in(dump: str, path: Path) -> int | None:
    """The innermost line of the file in a dump of `faulthandler`, which lists the innermost first."""
    match = re.search(rf'File "{re.escape(str(path))}", line (\d+)', dump)
    return int(match[1]) if match else None

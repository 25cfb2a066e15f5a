"""Runs a child process and hands its output on, line by line, while it runs."""

from __future__ import annotations

import errno
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentflow.nodes.base import NodeFailed, NodeLog

#: What a script sees of the runner's own environment; everything else, settings and credentials above all, stays out.
INHERITED: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
TAIL: Final = 64 * 1024  #: Bytes of standard output that are kept.
_READ: Final = 256 * 1024  # bytes per read
_LINE: Final = 1024 * 1024  # bytes of a line without an end after which it is cut
_WORD: Final = 8 * 1024  # bytes in which a cut looks for a space, so that no word (a secret, say) is torn
_IDLE: Final = 0.25  # seconds between looks whether the process ended while a grandchild holds its pipes
_DRAIN: Final = 1.0  # seconds of output that is still read after its end in that case
_CONTINUATION: Final = bytes(range(0x80, 0xC0))  # bytes inside a UTF-8 character
_ERROR_LINE: Final = 500  # characters of the last line on stderr that go into the error


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    returncode: int  #: Negative: minus the signal that killed it.
    stdout: str  #: The last 64 KiB.
    last_error: str  #: The last line on stderr that is not blank.


def run_streamed(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: NodeLog) -> Ended:
    """Run to the end, in the caller's process group and without input.

    Raises:
        NodeFailed: The process could not be started.
    """
    try:
        process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        advice = "; give large values by `files`" if error.errno == errno.E2BIG else ""
        raise NodeFailed(f"{argv[0]} could not be started: {error.strerror}{advice}") from error
    with process:  # closes the pipes and waits
        try:
            return _follow(process, log)
        except BaseException:
            process.kill()
            raise


def passed_on(inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that are on the allow-list."""
    return {name: value for name, value in inherited.items() if name in INHERITED or name.startswith("LC_")}


def clean_text(data: bytes) -> str:
    """Text that logs and JSON can hold: broken UTF-8 and NUL become U+FFFD."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


class _Stream:
    """One pipe: cuts what arrives into lines, logs them, keeps the tail."""

    def __init__(self, name: str, log: NodeLog) -> None:
        self._name = name
        self._log = log
        self._rest = b""
        self._tail = bytearray()
        self.last_line = ""

    def feed(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > 4 * TAIL:
            self._shorten()
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            self._write(whole + newline)
        if len(self._rest) >= _LINE:
            end = _cut(self._rest)
            self._write(self._rest[:end])
            self._rest = self._rest[end:]

    def finish(self) -> None:
        if self._rest:
            self._write(self._rest)
            self._rest = b""

    def tail(self) -> str:
        if len(self._tail) > TAIL:
            self._shorten()
        return clean_text(bytes(self._tail))

    def _shorten(self) -> None:
        """Keep the end, without the rest of a character that the cut broke."""
        self._tail = bytearray(self._tail[-TAIL:].lstrip(_CONTINUATION))

    def _write(self, block: bytes) -> None:
        text = clean_text(block)
        self._log(text, stream=self._name)
        # Most output is not looked at twice: the last line that is not blank is near the end.
        ending = text[-4 * _ERROR_LINE :].rstrip()
        self.last_line = ending[ending.rfind("\n") + 1 :].strip() or self.last_line


def _cut(data: bytes) -> int:
    """Where to cut a line so that no word, or at least no UTF-8 character, is broken."""
    space = data.rfind(b" ", len(data) - _WORD)
    if space > 0:
        return space
    for back in range(1, 4):
        if data[-back] >= 0xC0:
            return len(data) - back
        if data[-back] < 0x80:
            break
    return len(data)


def _follow(process: subprocess.Popen[bytes], log: NodeLog) -> Ended:
    if process.stdout is None or process.stderr is None:  # both are pipes: this only tells mypy
        raise AssertionError
    out, err = _Stream("stdout", log), _Stream("stderr", log)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout.fileno(), selectors.EVENT_READ, out)
        selector.register(process.stderr.fileno(), selectors.EVENT_READ, err)
        _read_all(selector, process)
    returncode = process.wait()
    out.finish()
    err.finish()
    return Ended(returncode, out.tail(), err.last_line[:_ERROR_LINE])


def _read_all(selector: selectors.BaseSelector, process: subprocess.Popen[bytes]) -> None:
    """Read both pipes to their end, or, when a background process keeps them open, until shortly after the end."""
    stop_at: float | None = None
    while selector.get_map():
        ready = selector.select(_IDLE)
        for key, _ in ready:
            data = os.read(key.fd, _READ)
            if data:
                key.data.feed(data)
            else:
                selector.unregister(key.fd)
        if process.poll() is None:
            continue
        stop_at = stop_at or time.monotonic() + _DRAIN
        if not ready or time.monotonic() > stop_at:
            return

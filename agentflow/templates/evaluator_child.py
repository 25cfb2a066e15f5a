"""The evaluator's child: answers expressions on stdin with values on stdout, within limits it puts on itself.

    python -m agentflow.templates.evaluator_child <seconds of CPU per expression> <bytes of memory>

It says `{"ready": true}` once, then answers every request in order. It ends when stdin ends, when its parent dies,
and by SIGPROF in the middle of an expression that takes too long. It gets no secrets and no environment of its parent.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

# All that an expression may need is imported before the limits are set and the first request is timed.
from agentflow.errors import TemplateError
from agentflow.templates import compiled  # noqa: F401 - see above
from agentflow.templates.framing import FrameReader, FrameTooLarge, encode_frame
from agentflow.templates.rendering import evaluate, read_json, render, with_inputs

_CHUNK = 2**18  # bytes per read
_OPEN_FILES = 16
_MESSAGE_LENGTH = 4000  # characters of an error's message
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until stdin ends."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    requests, answers = _private_pipes()
    _die_with_parent()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.dont_write_bytecode = True  # no file may be written from here on
    _limit(memory)
    _write(answers, encode_frame({"ready": True}))
    try:
        _serve(requests, answers, seconds)
    except MemoryError:
        # The parent starts a fresh process rather than trust this one's memory.
        _write(answers, _error("OutOfMemory", "the expression needs more memory than it may use"))


def _serve(requests: int, answers: int, seconds: float) -> None:
    reader = FrameReader()
    while data := os.read(requests, _CHUNK):
        # Taking a request apart is on its clock too: a huge context is its own fault.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        for request in reader.feed(data):
            _write(answers, _answer(request))
            signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_PROF, 0)


#: Every index of a mapped node may ask about the same output; expressions cannot change it.
_read = lru_cache(maxsize=1)(read_json)


def _answer(request: dict[str, Any]) -> bytes:
    try:
        expression, context = request["expression"], with_inputs(request["context"], request["files"], _read)
        evaluated = evaluate if isinstance(expression, str) else render
        return encode_frame({"value": evaluated(expression, context)})
    except MemoryError:
        raise
    except TemplateError as error:
        return _error("TemplateError", error.message)
    except FrameTooLarge as error:
        return _error("TemplateError", f"the value is too large: {error}")
    except Exception as error:  # noqa: BLE001 - one request must never end the process
        return _error(type(error).__name__, str(error))


def _error(kind: str, message: str) -> bytes:
    return encode_frame({"error": {"type": kind, "message": message[:_MESSAGE_LENGTH]}})


def _write(descriptor: int, frame: bytes) -> None:
    rest = memoryview(frame)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _private_pipes() -> tuple[int, int]:
    """Move the two pipes away from stdin and stdout, where a stray print would disturb them."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return requests, answers


def _die_with_parent() -> None:
    """Linux kills this process with its parent; elsewhere the end of stdin and SIGPROF do."""
    if sys.platform.startswith("linux"):
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            sys.exit(0)


def _limit(memory: int) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: _OPEN_FILES}
    if sys.platform.startswith("linux"):  # macOS accepts RLIMIT_AS and does not enforce it
        limits[resource.RLIMIT_AS] = memory
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
            resource.setrlimit(name, (limit, limit))


if __name__ == "__main__":
    main()

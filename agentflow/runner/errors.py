"""Describes why an attempt failed: the error object of SEMANTICS 3, bounded and without secrets."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from pydantic import ValidationError

import agentflow
from agentflow.nodes.base import NodeFailed
from agentflow.runner.masking import Masker
from agentflow.runner.output import OutputInvalid
from agentflow.workload import ErrorInfo, storable

MESSAGE_MAX: Final = 8 * 1024  # characters
TRACEBACK_MAX: Final = 16 * 1024  # characters
_FRAMES_MAX: Final = 50  # innermost frames kept
_BASES_MAX: Final = 20
_OURS: Final = str(Path(agentflow.__file__).parent)


class ConfigInvalid(Exception):
    """The rendered config does not fit the node type."""

    @classmethod
    def from_validation(cls, error: ValidationError) -> ConfigInvalid:
        """One line per problem, without the values, which may be secret."""
        lines = [
            f"config.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        return cls("\n".join(lines))


def describe(error: BaseException, mask: Masker) -> ErrorInfo:
    """The error object of an exception that ended an attempt."""
    message = clip(mask(_text(error)), MESSAGE_MAX)
    if isinstance(error, NodeFailed):
        return ErrorInfo(type=error.kind, message=message, exit_code=error.exit_code, signal=error.signal)
    if isinstance(error, OutputInvalid):
        return ErrorInfo(type="OutputInvalid", message=message)
    if isinstance(error, ConfigInvalid):
        return ErrorInfo(type="ConfigInvalid", message=message)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return ErrorInfo(type="ExitCode", message=f"the code called exit({_text(error)})", exit_code=code)
    kind = "OutOfMemory" if isinstance(error, MemoryError) else type(error).__name__
    if kind == "OutOfMemory":
        message = message or "the attempt ran out of memory; raise `resources.memory` of the node"
    return ErrorInfo(type=kind, message=message, traceback=_traceback(error, mask), bases=_bases(error))


def _bases(error: BaseException) -> tuple[str, ...]:
    """Names of the base classes that say something, nearest first."""
    found = [base.__name__ for base in type(error).__mro__[1:] if base not in (Exception, BaseException, object)]
    return tuple(found[:_BASES_MAX])


def clip(text: str, limit: int) -> str:
    """The text with its middle left out when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _text(error: BaseException) -> str:
    """`str(error)`, whatever its author made of `__str__`; storable as text."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - `__str__` is user code
        text = "<the exception's text cannot be made>"
    return storable(text)


def _traceback(error: BaseException, mask: Masker) -> str | None:
    """The frames of user code, innermost last; None when our own code raised."""
    frames = _user_frames(error.__traceback__)
    if frames is None:
        return None
    try:
        rendered = traceback.TracebackException(type(error), error, frames, limit=-_FRAMES_MAX, compact=True)
        text = "".join(rendered.format())
    except Exception as broken:  # noqa: BLE001 - rendering calls user code, which may raise anything
        text = f"<the traceback cannot be rendered: {type(broken).__name__}>"
    return clip(mask(storable(text)), TRACEBACK_MAX)


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from its first frame outside our package on."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace

"""A look at files, for `wait`."""

from __future__ import annotations

import asyncio
import glob
import os
import stat
from typing import Final

from agentflow.nodes.base import NodeFailed
from agentflow.nodes.wait_conditions import FileCondition

_PATIENCE: Final = 30.0  # seconds for a file system to answer
_MAGIC: Final = frozenset("*?[")


async def look_at_files(config: FileCondition) -> str | None:
    """Why the condition does not hold; None when it does. In a thread: a file system of the network may hang."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.to_thread(_look, config)
    except TimeoutError:
        return f"the file system did not answer within {_PATIENCE:g} s"


def _look(config: FileCondition) -> str | None:
    magic = _MAGIC & set(config.path)
    reason = f"there is nothing at {config.path}"
    for path in glob.iglob(config.path) if magic else [config.path]:  # noqa: PTH207 - as the user wrote it
        found = _unfit(config, path)
        if found is None:
            return None
        reason = found or reason
    return reason


def _unfit(config: FileCondition, path: str) -> str | None:
    """Why this path does not do; empty when nothing is there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of somebody else's, as it is
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        raise NodeFailed(f"{path} cannot be looked at: {error.strerror}", kind="PermissionError") from error
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    if config.min_size and stat.S_ISREG(status.st_mode) and status.st_size < config.min_size:
        return f"{path} has {status.st_size} bytes, fewer than {config.min_size}"
    if config.newer_than is not None and status.st_mtime <= config.newer_than.timestamp():
        return f"{path} is not newer than {config.newer_than.isoformat()}"
    return None
